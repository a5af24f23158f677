"""Slices: the same bytes again, nothing half-written taken for whole, damage noticed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import BackdropError
from infra.object_store import DirectoryStore, ObjectStore
from infra.settings import REPOSITORY
from infra.shards import (
    COMMIT,
    FILTERED_COLUMNS,
    Samples,
    Slice,
    Withdrawn,
    delete_slice,
    load_slice,
    load_version,
    local_slice,
    make_version,
    merged_index_key,
    read_slices,
    recorded_version,
    rewrite_slice,
    withdraw_slice,
    withdraw_version,
    write_slice,
)


def rows(count: int, start: int = 0) -> Iterator[dict[str, Any]]:
    for k in range(start, start + count):
        yield {
            "id": f"{k:064x}",
            "image": bytes([k % 256]) * 50,
            "mask": b"",
            "captions": [f"picture {k}", "blå"],
            "attributes": {"wall": "red", "number": k} if k % 2 else {"number": k, "wall": "red"},
            "width": 4,
            "height": 3,
            "source": "test",
        }


def write(store: ObjectStore, count: int = 20, start: int = 0, split: str = "train") -> Slice:
    return write_slice(store, "filtered", FILTERED_COLUMNS, rows(count, start), {"split": split})


def all_bytes(store: DirectoryStore) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("")}


def test_what_is_written_is_read(store: ObjectStore, tmp_path: Path) -> None:
    piece = write(store)
    found = list(read_slices(store, [piece], tmp_path / "cache"))
    assert [row["id"] for row in found] == [row["id"] for row in rows(20)]
    assert found[3]["captions"] == ["picture 3", "blå"]
    assert found[3]["image"] == b"\x03" * 50
    assert (piece.samples, piece.split, piece.sha256) == (20, "train", piece.id)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    stores = [DirectoryStore(tmp_path / name) for name in ("a", "b")]
    pieces = [write(store) for store in stores]
    assert pieces[0] == pieces[1]
    assert all_bytes(stores[0]) == all_bytes(stores[1])
    assert write(stores[0]) == pieces[0]
    assert all_bytes(stores[0]) == all_bytes(stores[1])


def test_other_samples_or_another_split_give_another_id(store: ObjectStore) -> None:
    assert len({write(store).id, write(store, 21).id, write(store, split="holdout").id}) == 3


def test_a_slice_without_its_commit_does_not_exist(store: ObjectStore, tmp_path: Path) -> None:
    piece = write(store)
    store.delete(f"{piece.prefix}/{COMMIT}")
    with pytest.raises(BackdropError, match="not complete"):
        list(read_slices(store, [piece], tmp_path))


def test_a_tampered_record_and_a_short_shard_are_noticed(store: ObjectStore, tmp_path: Path) -> None:
    piece = write(store)
    record = load_slice(store, piece.prefix)
    shard = next(name for name in record["files"] if name.endswith(".mds"))
    whole = store.get(f"{piece.prefix}/{shard}")
    store.put(f"{piece.prefix}/{shard}", whole[:-1])
    with pytest.raises(BackdropError, match=shard):
        local_slice(store, piece, tmp_path)
    store.put(f"{piece.prefix}/{shard}", whole)
    store.put(f"{piece.prefix}/{COMMIT}", json.dumps({**record, "samples": 19}).encode())
    with pytest.raises(BackdropError, match="does not match its id"):
        load_slice(store, piece.prefix)


def test_a_bucket_is_read_through_a_cache_that_is_checked(s3_store: ObjectStore, tmp_path: Path) -> None:
    piece = write(s3_store)
    assert len(list(read_slices(s3_store, [piece], tmp_path))) == 20
    cached = next((tmp_path / piece.id).glob("*.mds"))
    cached.write_bytes(cached.read_bytes()[:-5])
    assert len(list(read_slices(s3_store, [piece], tmp_path))) == 20
    shard = f"{piece.prefix}/{cached.name}"
    s3_store.put(shard, bytes(reversed(s3_store.get(shard))))
    with pytest.raises(BackdropError, match="changed after it was committed"):
        local_slice(s3_store, piece, tmp_path / "other")


_KILLED = """
import sys
from infra.object_store import DirectoryStore
from infra.shards import FILTERED_COLUMNS, write_slice
from tests.infra.test_shards import rows
print("ready", flush=True)
store = DirectoryStore(__import__("pathlib").Path(sys.argv[1]))
for k in range(1000):
    write_slice(store, "filtered", FILTERED_COLUMNS, rows(40, k * 40), {"split": "train"})
"""


@pytest.mark.integration
def test_kill_at_any_time_leaves_nothing_half_whole(tmp_path: Path) -> None:
    undisturbed = DirectoryStore(tmp_path / "undisturbed")
    for pause in (0.0, 0.03, 0.11):
        folder = tmp_path / f"store-{pause}"
        child = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        while not list(folder.rglob(COMMIT)) and child.poll() is None:
            time.sleep(0.01)
        time.sleep(pause)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        store = DirectoryStore(folder)
        committed = [key.rsplit("/", 1)[0] for key in store.list("filtered/") if key.endswith(COMMIT)]
        assert committed
        for prefix in committed:
            record = load_slice(store, prefix)
            piece = Slice(record["id"], prefix, record["samples"])
            first = next(read_slices(store, [piece], tmp_path))
            assert write(undisturbed, 40, int(first["id"], 16)) == piece
        # Going on where it was killed writes what an undisturbed run writes.
        for k in range(len(committed) + 1):
            assert write(store, 40, k * 40) == write(undisturbed, 40, k * 40)
        whole = all_bytes(undisturbed)
        again = all_bytes(store)
        assert {key: again[key] for key in again if key in whole} == {key: whole[key] for key in whole if key in again}
        assert sum(key.endswith(COMMIT) for key in again) >= len(committed) + 1


def test_a_version_is_the_hash_of_its_list(store: ObjectStore) -> None:
    a, b, c = write(store, 5), write(store, 7, 100), write(store, 3, 200, "holdout")
    version = make_version(store, [c, a, b])
    assert version == make_version(store, [a, b, c, a])
    assert load_version(store, version.version) == version
    assert version.samples == 15
    assert {piece.id for piece in version.of("train")} == {a.id, b.id}
    assert version.of("holdout") == [c]
    assert make_version(store, [a, c]).version != version.version


def test_an_unknown_or_changed_version_is_refused(store: ObjectStore) -> None:
    with pytest.raises(BackdropError, match="not a dataset version"):
        load_version(store, "latest")
    with pytest.raises(BackdropError, match="training_set"):
        load_version(store, "0" * 64)
    version = make_version(store, [write(store, 5)])
    key = f"datasets/{version.version}.json"
    store.put(key, store.get(key).replace(b'"samples":5', b'"samples":6'))
    with pytest.raises(BackdropError, match="does not match its hash"):
        load_version(store, version.version)


def test_arrays_survive(store: ObjectStore, tmp_path: Path) -> None:
    columns = {"id": "str", "latent": "ndarray:float16", "masks": "ndarray:uint8", "has_product": "int"}
    latent = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    sample = {"id": "a", "latent": latent, "masks": np.ones((2, 3), np.uint8), "has_product": 1}
    piece = write_slice(store, "latents/x", columns, [sample], {})
    found = next(read_slices(store, [piece], tmp_path))
    assert found["latent"].dtype == np.float16
    assert np.array_equal(found["latent"], latent)


@pytest.mark.parametrize("kind", ["store", "s3_store"])
def test_samples_are_read_in_any_order(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store: ObjectStore = request.getfixturevalue(kind)
    pieces = [write(store, 30), write(store, 0, 70), write(store, 34, 100)]
    samples = Samples(store, pieces, tmp_path)
    every = list(read_slices(store, pieces, tmp_path / "other"))
    order = np.random.default_rng(0).permutation(64)
    assert samples.read(order) == [every[k] for k in order]
    assert samples.read(np.array([31, 2]), ["id"]) == [{"id": every[31]["id"]}, {"id": every[2]["id"]}]
    assert samples.shards() == [(pieces[0], 30), (pieces[2], 34)]
    assert len(samples) == 64


def test_samples_are_those_that_streaming_reads(store: ObjectStore, tmp_path: Path, monkeypatch: Any) -> None:
    """Contract with mosaicml-streaming: its reader and ours see the same in a shard, whatever the encodings."""
    from infra._compat.streaming import LocalDataset
    from infra.shards import slices

    monkeypatch.setattr(slices, "_SHARD_BYTES", 4096)  # several shards
    columns = {
        **FILTERED_COLUMNS,
        "fixed": "ndarray:float16:2,3",
        "free": "ndarray:float32",
        "real": "float64",
        "small": "uint8",
    }
    extra = [
        {
            **row,
            "fixed": np.full((2, 3), k, np.float16),
            "free": np.full((1, k + 1), k, np.float32),
            "real": k / 7,
            "small": k,
            "height": -k,
        }
        for k, row in enumerate(rows(40))
    ]
    piece = write_slice(store, "mixed", columns, extra, {})
    theirs = LocalDataset(str(local_slice(store, piece, tmp_path)))
    assert len(theirs.shards) > 1
    ours = Samples(store, [piece], tmp_path).read(np.arange(40))
    for k, (mine, other) in enumerate(zip(ours, read_slices(store, [piece], tmp_path), strict=True)):
        for found in (mine, other):
            assert found.keys() == theirs[k].keys() == columns.keys()
            for name, value in theirs[k].items():
                assert np.array_equal(found[name], value)
                assert np.asarray(found[name]).dtype == np.asarray(value).dtype


@pytest.mark.parametrize("kind", ["store", "s3_store"])
@pytest.mark.parametrize("harm", ["missing", "altered", "cut"])
def test_a_missing_or_altered_shard_is_named(
    kind: str, harm: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store: ObjectStore = request.getfixturevalue(kind)
    piece, other = write(store), write(store, 5, 100)
    samples = Samples(store, [other, piece], tmp_path)
    key = next(key for key in store.list(piece.prefix) if key.endswith(".mds"))
    data = store.get(key)
    store.delete(key)
    if harm != "missing":
        store.put(key, data[:-1] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    assert len(samples.read(np.arange(5))) == 5
    name = key.rsplit("/", 1)[1]
    for read in (lambda: samples.read(np.arange(8)), lambda: list(read_slices(store, [piece], tmp_path / "new"))):
        with pytest.raises(BackdropError, match=f"{name} of the slice {piece.prefix} in .* is missing or was changed"):
            read()


def test_a_slice_that_is_withdrawn_while_it_is_open_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    piece, unread = write(store), write(store, 5, 100)
    samples = Samples(store, [piece, unread], tmp_path)
    first = np.arange(20)
    samples.read(first)
    samples.refuse_withdrawn(first)
    withdraw_slice(store, piece, "takedown 1: asked to")
    for _ in range(2):  # its shard is there still, and open: it can be read, and must not be used
        with pytest.raises(Withdrawn, match="takedown 1"):
            samples.refuse_withdrawn(first)
    withdraw_slice(store, unread, "takedown 2: asked to")
    delete_slice(store, unread)
    with pytest.raises(Withdrawn, match="takedown 2"):
        samples.read(np.array([22]))


def test_a_slice_that_is_erased_from_the_cache_is_asked_about(s3_store: ObjectStore, tmp_path: Path) -> None:
    piece = write(s3_store)
    samples = Samples(s3_store, [piece], tmp_path)
    samples.read(np.arange(20))
    shutil.rmtree(tmp_path / piece.id)
    samples.refuse_withdrawn(np.arange(20))  # it is whole in the store
    withdraw_slice(s3_store, piece, "takedown 1: asked to")
    with pytest.raises(Withdrawn, match="takedown 1"):
        samples.refuse_withdrawn(np.arange(20))


def test_a_rewritten_slice_has_the_bytes_of_packing_what_is_left(store: ObjectStore, tmp_path: Path) -> None:
    meta = {"split": "train", "bucket": "4x3", "delivery": "spring"}
    old = write_slice(store, "filtered", FILTERED_COLUMNS, rows(20), meta)
    gone = {f"{k:064x}" for k in (0, 7, 19, 400)}
    left = [row for row in rows(20) if row["id"] not in gone]
    other = DirectoryStore(tmp_path / "other")
    expected = write_slice(other, "filtered", FILTERED_COLUMNS, left, meta)
    withdraw_slice(store, old, "asked to")  # it is read although nobody else may
    assert rewrite_slice(store, old, gone) == expected
    assert rewrite_slice(store, old, gone) == expected  # killed and run again
    assert {key: store.get(key) for key in store.list(f"{expected.prefix}/")} == all_bytes(other)
    assert rewrite_slice(store, old, {row["id"] for row in rows(20)}) is None


def test_latents_are_rewritten_bit_for_bit(store: ObjectStore) -> None:
    columns = {"id": "str", "latent": "ndarray:float16:2,2", "text": "ndarray:uint8:3", "has_product": "int"}
    samples = [
        {"id": str(k), "latent": np.full((2, 2), k, np.float16), "text": np.full(3, k, np.uint8), "has_product": k % 2}
        for k in range(6)
    ]
    old = write_slice(store, "latents/old", columns, samples, {"source": "a"})
    meta = {"source": "b"}
    found = rewrite_slice(store, old, {"3"}, root="latents/new", meta=meta)
    left = [sample for sample in samples if sample["id"] != "3"]
    assert found == write_slice(store, "latents/new", columns, left, meta)


@pytest.mark.parametrize("kind", ["store", "s3_store"])
def test_what_is_withdrawn_is_refused_with_the_reason(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store: ObjectStore = request.getfixturevalue(kind)
    piece, other = write(store), write(store, 5, 100)
    version = make_version(store, [piece, other])
    list(read_slices(store, [piece], tmp_path))  # a remote store's slice is in the cache now
    withdraw_slice(store, piece, "takedown 1: asked to")
    withdraw_slice(store, piece, "takedown 2: the first reason counts")
    readers: list[Any] = [
        lambda: load_slice(store, piece.prefix),
        lambda: local_slice(store, piece, tmp_path),
        lambda: list(read_slices(store, [other, piece], tmp_path)),
        lambda: Samples(store, [other, piece], tmp_path),
        lambda: write(store),
        lambda: make_version(store, [piece]),
    ]
    for read in readers:
        with pytest.raises(Withdrawn, match="takedown 1: asked to") as refused:
            read()
        assert "training_set" in refused.value.remedy
    assert load_version(store, version.version) == version
    withdraw_version(store, version.version, "takedown 1: asked to")
    withdraw_version(store, version.version, "takedown 2")
    for read in (lambda: load_version(store, version.version), lambda: make_version(store, [piece, other])):
        with pytest.raises(Withdrawn, match="takedown 1: asked to"):
            read()
    assert recorded_version(store, version.version) == (version, "takedown 1: asked to")
    assert not list(store.list(f"datasets/{version.version}/"))
    assert delete_slice(store, piece) == 2  # a shard and its index
    assert delete_slice(store, piece) == 0
    assert list(store.list(f"{piece.prefix}/")) == [f"{piece.prefix}/{COMMIT}"]
    with pytest.raises(ValueError, match="not withdrawn"):
        delete_slice(store, other)
    assert len(list(read_slices(store, [other], tmp_path))) == 5


def test_the_merged_index_is_an_mds_folder_of_the_whole_bucket(tmp_path: Path) -> None:
    from infra._compat.streaming import LocalDataset, StreamingDataset

    store = DirectoryStore(tmp_path / "store")
    wide = [
        write_slice(store, "filtered", FILTERED_COLUMNS, rows(n, start), {"split": "train", "bucket": "4x3"})
        for n, start in ((20, 0), (0, 0), (7, 100))
    ]
    tall = write_slice(store, "filtered", FILTERED_COLUMNS, rows(3, 200), {"split": "train", "bucket": "3x4"})
    held = write(store, 4, 300, "holdout")  # in no bucket
    version = make_version(store, [*wide, tall, held]).version
    expected = {("train", "4x3"): 27, ("train", "3x4"): 3, ("holdout", ""): 4}
    for (split, bucket), count in expected.items():
        folder = store.local_path(merged_index_key(version, split, bucket))
        assert folder is not None
        local = LocalDataset(str(folder.parent))
        assert len({local[k]["id"] for k in range(len(local))}) == count
        streamed = StreamingDataset(local=str(folder.parent), batch_size=1, shuffle=True)
        assert len({sample["id"] for sample in streamed}) == count
    ids = [row["id"] for piece in sorted(wide, key=lambda one: one.id) for row in read_slices(store, [piece], tmp_path)]
    local = LocalDataset(str((tmp_path / "store" / merged_index_key(version, "train", "4x3")).parent))
    assert [local[k]["id"] for k in range(len(local))] == ids
    # The whole store may be moved: paths in the index are relative.
    assert str(tmp_path) not in store.get(merged_index_key(version, "train", "4x3")).decode()
