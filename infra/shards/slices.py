"""One slice: how it is written, committed, and known to be whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import BackdropError
from infra.files import canonical_json, full_disk_named, sha256_bytes, sha256_file
from infra.object_store import ObjectMissing, ObjectStore
from infra.shards.writing import shard_writer

FILTERED_COLUMNS: dict[str, str] = {
    "id": "str",
    "image": "bytes",
    "mask": "bytes",  # PNG, L, 255 = product; b"" = none
    "captions": "json",
    "attributes": "json",
    "width": "int",
    "height": "int",
    "source": "str",
}
"""Columns of a slice of filtered images."""

COMMIT, INDEX = "slice.json", "index.json"
_SHARD_BYTES = 64 << 20


class Withdrawn(BackdropError):
    """A slice or a dataset version that must not be read any more; the message says why."""


@dataclass(frozen=True)
class Slice:
    """A committed slice: content hash, key prefix (no trailing slash), samples, split, aspect-ratio bucket."""

    id: str
    prefix: str
    samples: int
    split: str = "train"
    bucket: str = ""

    @property
    def sha256(self) -> str:
        """The slice's identity is the hash of its bytes."""
        return self.id


def write_slice(
    store: ObjectStore,
    root: str,
    columns: Mapping[str, str],
    samples: Iterable[Mapping[str, Any]],
    meta: Mapping[str, Any],
) -> Slice:
    """Packs `samples` and commits them as one slice below the key prefix `root`.

    `meta` (JSON; 'split' defaults to 'train', 'bucket' to '') becomes part of the identity. The same columns, samples
    and meta give the same id and the same bytes; a slice that is already committed is not uploaded again. Raises
    Withdrawn for a slice that a takedown has removed.
    """
    folder = Path(tempfile.mkdtemp(prefix="slice-"))
    try:
        with full_disk_named(folder):
            writer = shard_writer(dict(columns), folder / "mds", _SHARD_BYTES)
            count = 0
            with writer:
                for sample in samples:
                    writer.write({name: _canonical(columns[name], sample[name]) for name in columns})
                    count += 1
        index = folder / "mds" / INDEX
        files = {INDEX: {"bytes": index.stat().st_size, "sha256": sha256_file(index)}, **writer.written}
        identity = {"columns": dict(columns), "files": files, "meta": dict(meta), "samples": count}
        slice_id = sha256_bytes(canonical_json(identity))
        split, bucket = str(meta.get("split", "train")), str(meta.get("bucket", ""))
        piece = Slice(slice_id, f"{root}/{slice_id}", count, split, bucket)
        commit = f"{piece.prefix}/{COMMIT}"
        if store.exists(commit):
            refuse_withdrawn(store, piece.prefix, json.loads(store.get(commit)))
        else:
            for name in files:
                store.take_file(f"{piece.prefix}/{name}", folder / "mds" / name)
            store.put(commit, canonical_json({"id": slice_id, **identity}))
        return piece
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _canonical(encoding: str, value: Any) -> Any:
    """One spelling per JSON value: MDS writes keys in the order in which it meets them."""
    if encoding != "json" or (type(value) is list and all(type(item) is str for item in value)):
        return value
    return json.loads(canonical_json(value))


def load_slice(store: ObjectStore, prefix: str) -> dict[str, Any]:
    """The commit record of the slice at `prefix`: {"id", "columns", "files", "meta", "samples"}.

    Raises BackdropError when the slice was never committed or its record does not match its id, Withdrawn when a
    takedown has removed it.
    """
    record = recorded_slice(store, prefix)
    refuse_withdrawn(store, prefix, record)
    return record


def recorded_slice(store: ObjectStore, prefix: str) -> dict[str, Any]:
    """Like `load_slice`, also of a withdrawn slice: its record stays and has "withdrawn", the reason."""
    try:
        record = json.loads(store.get(f"{prefix}/{COMMIT}"))
    except ObjectMissing:
        raise BackdropError(
            f"the slice {prefix} in {store.uri} is not complete: it has no {COMMIT}",
            "materialise the asset that writes it again",
        ) from None
    claimed = record.get("id")
    identity = {name: value for name, value in record.items() if name not in ("id", "withdrawn")}
    if sha256_bytes(canonical_json(identity)) != claimed or claimed != prefix.rsplit("/", 1)[-1]:
        raise BackdropError(
            f"the record of the slice {prefix} in {store.uri} does not match its id",
            "it was changed after it was written: materialise the asset that writes it again",
        )
    return dict(record)


def refuse_withdrawn(store: ObjectStore, prefix: str, record: Mapping[str, Any]) -> None:
    """Raises Withdrawn when the commit record says so."""
    if "withdrawn" in record:
        raise Withdrawn(
            f"the slice {prefix} in {store.uri} was withdrawn: {record['withdrawn']}",
            "go on from the newest training_set, in which the slice is replaced; where filtered_shards still lists it,"
            " materialise that again",
        )


def slice_files(store: ObjectStore, prefix: str, record: Mapping[str, Any], cache: Path) -> Path:
    """A local folder with the files of a commit record: in place for a directory store, else fetched into `cache`.

    Raises BackdropError naming the file that is missing or not the one that was committed, by its size and hash.
    """
    files = [slice_file(store, prefix, record, name, cache) for name in record["files"]]
    return files[0].parent


def slice_file(store: ObjectStore, prefix: str, record: Mapping[str, Any], name: str, cache: Path) -> Path:
    """One of the files of a commit record, as `slice_files` gives them."""
    facts = record["files"][name]
    in_place = store.local_path(f"{prefix}/{name}")
    path = in_place if in_place is not None else cache / str(record["id"]) / name
    if _is_whole(path, facts):
        return path
    if in_place is None:
        with contextlib.suppress(ObjectMissing):
            store.fetch(f"{prefix}/{name}", path)
            if _is_whole(path, facts):
                return path
        path.unlink(missing_ok=True)
    raise _damaged(store, prefix, name)


def _is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == facts["bytes"] and sha256_file(path) == facts["sha256"]


def _damaged(store: ObjectStore, prefix: str, name: str) -> BackdropError:
    return BackdropError(
        f"{name} of the slice {prefix} in {store.uri} is missing or was changed after it was committed",
        f"delete {prefix}/{COMMIT} and materialise the asset that writes it again",
    )


def shard_places(store: ObjectStore, piece: Slice) -> Iterator[tuple[str, int]]:
    """(shard file, place in it) of each sample of a slice, in order."""
    if piece.samples == 0:
        return
    for shard in json.loads(store.get(f"{piece.prefix}/{INDEX}"))["shards"]:
        yield from ((shard["raw_data"]["basename"], place) for place in range(shard["samples"]))
