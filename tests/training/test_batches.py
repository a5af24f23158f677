"""Loaders: the plan's batches whatever the ranks and the start; what is drawn from them; what may go wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from infra.errors import BackdropError
from infra.object_store import DirectoryStore, ObjectStore
from infra.settings import REPOSITORY
from infra.shards import FILTERED_COLUMNS, Samples, Slice, Withdrawn, withdraw_slice, write_slice
from tests.training.filtered import filtered_row
from training.batches import choose, image_loader, latent_loader
from training.draws import Draws
from training.feed import Batch
from training.loader import Loader, open_loader
from training.plan import Plan
from training.samples import latent_columns

SHAPES = {"": (4, 4), "1x1": (4, 4), "3x4": (5, 3)}


def latents(store: ObjectStore, count: int, bucket: str = "", tag: str = "a") -> Slice:
    """A slice whose sample k has the id "<tag>-<k>" and k in all that it holds."""
    height, width = SHAPES[bucket]
    columns = latent_columns(2, height, width, 4, 2, 6, 3)
    rows = (
        {
            "id": f"{tag}-{k}",
            "latent": np.full((2, height, width), k, np.float16),
            "masked": np.full((4, 2, height, width), k, np.float16),
            "masks": np.full((4, height, width), k, np.uint8),
            "text": np.full((2, 6, 3), k, np.float16),
            "text_length": np.array([2, 3 + k % 2], np.uint8),
            "has_product": k % 2,
        }
        for k in range(count)
    )
    return write_slice(store, "latents/x", columns, rows, {"bucket": bucket, "tag": tag})


@pytest.fixture
def slices(store: ObjectStore) -> list[Slice]:
    return [latents(store, 37, "1x1", "a"), latents(store, 26, "3x4", "b"), latents(store, 20, "1x1", "c")]


def opened(store: ObjectStore, pieces: Sequence[Slice], batch_size: int = 8, seed: int = 1) -> Loader:
    return latent_loader(store, pieces, Path("no cache"), batch_size, seed)


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_holds_the_samples_that_it_names(store: ObjectStore, slices: list[Slice]) -> None:
    loader = opened(store, slices)
    assert len(loader) == 57 // 8 + 26 // 8
    seen: list[str] = []
    for batch in islice(loader, len(loader)):
        ids = loader.ids(batch)
        bucket = "3x4" if ids[0].startswith("b") else "1x1"
        assert {name[0] for name in ids} <= ({"b"} if bucket == "3x4" else {"a", "c"})
        height, width = SHAPES[bucket]
        number = torch.tensor([int(name[2:]) for name in ids])
        shapes = {name: tuple(column.shape[1:]) for name, column in batch.items()}
        assert shapes == {
            "latent": (2, height, width),
            "masked": (4, 2, height, width),
            "masks": (4, height, width),
            "text": (2, int(batch["text_length"].max()), 3),
            **dict.fromkeys(("has_product", "position", "global_size", "sample"), ()),
            "text_length": (2,),
        }
        for name in ("latent", "masked", "masks", "text"):
            assert torch.equal(batch[name].flatten(1)[:, 0].long(), number)
        assert torch.equal(batch["has_product"], number % 2 == 1)
        assert batch["position"].tolist() == list(range(8))
        assert set(batch["global_size"].tolist()) == {8}
        seen += ids
    assert len(seen) == len(set(seen)) == 8 * len(loader)


def test_a_run_that_starts_at_any_batch_sees_what_the_whole_run_sees(store: ObjectStore, slices: list[Slice]) -> None:
    whole = list(islice(opened(store, slices), 25))  # two epochs and a half
    for start in (0, 1, 9, 10, 19):
        assert all(map(same, islice(opened(store, slices).at(start), 3), whole[start:]))
    assert not same(next(opened(store, slices, seed=2)), whole[0])


def test_ranks_share_the_same_global_batches(store: ObjectStore, slices: list[Slice]) -> None:
    whole = list(islice(opened(store, slices), 12))
    for ranks in (2, 4, 8):
        loaders = [opened(store, slices).at(0, rank, ranks) for rank in range(ranks)]
        for batch, *parts in zip(whole, *loaders, strict=False):
            for name in batch.keys() - {"text"}:
                assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
            for part, text in zip(parts, batch["text"].split(8 // ranks), strict=True):
                longest = part["text"].shape[2]  # the rank's own longest
                assert torch.equal(part["text"], text[:, :, :longest])
    elastic = opened(store, slices).at(5, 1, 2)
    assert torch.equal(next(elastic)["latent"], whole[5]["latent"][4:])
    assert torch.equal(next(elastic.at(11, 0, 1))["latent"], whole[11]["latent"])


def test_what_is_dropped_is_reported(store: ObjectStore, slices: list[Slice], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "training.loader"):
        assert opened(store, slices).dropped == {"1x1": 57 % 8, "3x4": 26 % 8}
        assert opened(store, slices, 30).at(3).dropped == {"1x1": 27, "3x4": 26}
    assert "bucket 3x4: 2 of 26 samples are in no batch of 8" in caplog.text
    assert "bucket 3x4: 26 of 26 samples are in no batch of 30" in caplog.text
    assert [record.levelname for record in caplog.records] == ["INFO"] * 3 + ["WARNING"]
    assert opened(store, [latents(store, 9)]).dropped == {"all": 1}


def test_a_bucket_with_fewer_samples_than_ranks_is_dropped_like_any_that_fills_no_batch(
    store: ObjectStore, slices: list[Slice]
) -> None:
    loaders = [opened(store, [*slices, latents(store, 3, "", "few")]).at(0, rank, 8) for rank in range(8)]
    assert loaders[0].dropped["all"] == 3
    assert all(len(next(loader)["sample"]) == 1 for loader in loaders)


def test_one_batch_can_be_had_without_reading_ahead(store: ObjectStore, slices: list[Slice]) -> None:
    loader = opened(store, slices)
    before = threading.active_count()
    found = loader.batch(2)
    assert threading.active_count() == before
    assert same(found, list(islice(loader, 3))[2])
    loader.close()


class Shards:
    """Samples whose shards take until `let_go` to be fetched; notes which were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.begun, self.let_go = threading.Event(), threading.Event()

    def read(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        return [{} for _ in numbers]

    def open_shards(self, numbers: np.ndarray) -> None:
        self.asked += numbers.tolist()
        self.begun.set()
        assert self.let_go.wait(10)


def test_closing_waits_for_the_shard_that_is_being_fetched_alone() -> None:
    shards = Shards()
    plan = Plan(0, {"": [10] * 40}, 4)
    loader = Loader(cast(Samples, shards), plan, lambda rows, bucket: {"x": torch.zeros(len(rows))})
    iter(loader)
    assert shards.begun.wait(10)
    threading.Timer(0.1, shards.let_go.set).start()
    loader.close()
    assert len(shards.asked) == 1


def test_the_loader_reads_ahead_and_not_too_far(store: ObjectStore, tmp_path: Path) -> None:
    made: list[int] = []

    def collate(samples: list[dict[str, Any]], bucket: str) -> Batch:
        made.append(len(samples))
        return {"x": torch.zeros(len(samples))}

    loader = open_loader(store, [latents(store, 37)], tmp_path, 4, 0, collate)
    assert made == []
    for first in (iter, next):  # each asks for what the last one took
        first(loader)
        for _ in range(500):
            if len(made) == 3:
                break
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [4, 4, 4]  # nobody has waited for them, and there are no more
    loader.close()


def test_a_takedown_stops_a_run_before_its_next_batch(store: ObjectStore) -> None:
    piece = latents(store, 37)
    loader = opened(store, [piece])
    next(loader)
    withdraw_slice(store, piece, "takedown 7: asked to")
    with pytest.raises(Withdrawn, match="takedown 7"):  # though it was read ahead
        next(loader)
    with pytest.raises(Withdrawn, match="takedown 7"):
        opened(store, [piece])


def test_an_altered_shard_ends_the_run_with_its_name(store: ObjectStore) -> None:
    piece = latents(store, 37)
    key = next(key for key in store.list(piece.prefix) if key.endswith(".mds"))
    data = bytearray(store.get(key))
    data[-3] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(BackdropError, match=r"shard.00000.mds of the slice latents/x/.* was changed"):
        next(opened(store, [piece]))


_KILLED = """
import sys
from pathlib import Path
import torch
from infra.object_store import DirectoryStore
from infra.shards import Slice
from training.batches import latent_loader
piece = Slice(*sys.argv[2:4], int(sys.argv[4]))
loader = latent_loader(DirectoryStore(Path(sys.argv[1])), [piece], Path("cache"), 8, 0)
for batch in loader:
    print(loader.ids(batch), flush=True)
"""


@pytest.mark.integration
def test_a_killed_run_leaves_no_lock_and_no_shared_memory(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    piece = latents(store, 64)
    before = sorted(store.list(""))
    tmp, work = tmp_path / "tmp", tmp_path / "work"
    tmp.mkdir()
    work.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(store.folder), piece.id, piece.prefix, str(piece.samples)],
        env={**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(REPOSITORY)},
        cwd=work,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    lines = [run.stdout.readline() for _ in range(20)]
    assert "/dev/shm/" not in Path(f"/proc/{run.pid}/maps").read_text()
    run.kill()
    run.wait()
    run.stdout.close()
    loader = opened(store, [piece], seed=0)
    assert lines == [f"{loader.ids(batch)}\n" for batch in islice(loader, 20)]
    assert list(tmp.rglob("*")) == list(work.rglob("*")) == []
    assert sorted(store.list("")) == before


def test_pictures_are_squares_whatever_their_bucket(store: ObjectStore, tmp_path: Path) -> None:
    def piece(bucket: str, height: int, width: int, count: int) -> Slice:
        picture = np.zeros((height, width, 3), np.uint8)
        picture[:, :, 0] = np.arange(width) * 8
        rows = (filtered_row(f"{bucket}-{k}", picture, None, []) for k in range(count))
        return write_slice(store, "filtered", FILTERED_COLUMNS, rows, {"bucket": bucket})

    loader = image_loader(store, [piece("3x4", 32, 24, 3), piece("4x3", 12, 16, 3)], tmp_path, 6, 16, 0)
    batch = next(loader)
    assert (batch["image"].shape, batch["image"].dtype) == ((6, 3, 16, 16), torch.uint8)
    assert sorted(loader.ids(batch)) == [f"{bucket}-{k}" for bucket in ("3x4", "4x3") for k in range(3)]
    wide = batch["image"][[name.startswith("4x3") for name in loader.ids(batch)]]
    assert (wide[:, 0, 8, 0] < 40).all()
    assert (wide[:, 0, 8, -1] > 90).all()


def variants(count: int, masks: int = 5, captions: int = 3) -> Batch:
    """A batch in which everything of mask k holds k, and of caption k."""
    which, caption = torch.arange(masks).float(), torch.arange(captions).float()
    return {
        "latent": torch.zeros(count, 1, 1, 1),
        "masked": which.view(1, masks, 1, 1, 1).expand(count, masks, 1, 1, 1),
        "masks": (which * 50).to(torch.uint8).view(1, masks, 1, 1).expand(count, masks, 1, 1),
        "text": caption.view(1, captions, 1, 1).expand(count, captions, 2, 3),
        "text_length": torch.full((count, captions), 2, dtype=torch.uint8),
        "has_product": torch.arange(count) % 2 == 0,
    }


def shares(values: torch.Tensor, bins: int) -> list[float]:
    return (torch.bincount(values.long(), minlength=bins) / len(values)).tolist()


def test_masks_and_captions_are_drawn_in_the_shares_asked_for() -> None:
    batch = variants(20_000)
    chosen = choose(batch, 0.5, 0.1, 0.2, Draws.of(batch, 0, 0))
    which = chosen["masked"].flatten()
    assert torch.allclose(chosen["mask"].flatten(), which * 50 / 255)  # a mask goes with its own masked latent
    with_product, without = which[batch["has_product"]], which[~batch["has_product"]]
    assert shares(with_product, 5) == pytest.approx([0.1, 0.4 / 3, 0.4 / 3, 0.4 / 3, 0.5], abs=0.02)
    assert shares(without, 5) == pytest.approx([0.1, 0.3, 0.3, 0.3, 0], abs=0.02)
    assert shares(chosen["text"][:, 0, 0], 3) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert shares(chosen["text_length"], 3) == pytest.approx([0.2, 0, 0.8], abs=0.02)


def test_jittered_masks_stand_for_the_products_and_for_nothing_else() -> None:
    batch = variants(20_000, masks=6)
    draws = Draws.of(batch, 0, 0)
    which = choose(batch, 0.6, 0.0, 0.0, draws, jittered=2)["masked"].flatten()
    assert shares(which[batch["has_product"]], 6) == pytest.approx([0, 0.2, 0.2, 0.2, 0.2, 0.2], abs=0.02)
    assert shares(which[~batch["has_product"]], 6) == pytest.approx([0, 0.5, 0.5, 0, 0, 0], abs=0.02)


def test_what_is_chosen_depends_on_the_place_in_the_global_batch(store: ObjectStore, slices: list[Slice]) -> None:
    loader = opened(store, slices)
    whole = next(loader)
    halves = [next(loader.at(0, rank, 2)) for rank in range(2)]
    expected = choose(whole, 0.4, 0.1, 0.3, Draws.of(whole, 5, 17))
    found = [choose(half, 0.4, 0.1, 0.3, Draws.of(half, 5, 17)) for half in halves]
    for name in expected.keys() - {"text"}:
        assert torch.equal(torch.cat([half[name] for half in found]), expected[name])
    again = choose(whole, 0.4, 0.1, 0.3, Draws.of(whole, 5, 18))
    assert any(not torch.equal(again[name], expected[name]) for name in ("masked", "text", "text_length"))
