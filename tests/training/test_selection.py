"""Which samples the later stages of a fine-tune see."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, cast

import numpy as np
import pytest
import torch

from infra.errors import BackdropError
from infra.shards import Samples
from training.loader import Loader
from training.plan import Plan
from training.presets.sections import CuratedStageSection
from training.selection import curated, select, with_products


class Rows:
    """Samples in memory, in the shape of latent slices or of pictures' slices."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers: np.ndarray, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
        found = [self.rows[number] for number in numbers.tolist()]
        return found if columns is None else [{name: row[name] for name in columns} for row in found]

    def open_shards(self, numbers: np.ndarray) -> None: ...

    def refuse_withdrawn(self, numbers: np.ndarray) -> None: ...


def latents(count: int = 40) -> Rows:
    """Every second has a product; number k has a caption of k words beside one of a single word."""
    return Rows(
        [
            {"id": f"p{k}", "has_product": int(k % 2 == 0), "text_length": np.array([1, k], np.uint8)}
            for k in range(count)
        ]
    )


def pictures(count: int = 40) -> Rows:
    return Rows(
        [{"id": f"p{k}", "mask": b"png" * (k % 2 == 0), "captions": ["a", "b" * k], "image": b""} for k in range(count)]
    )


def loader(rows: Rows, batch: int = 4) -> Loader:
    plan = Plan(0, {"1x1": [10, 14], "3x4": [len(rows) - 24]}, batch)
    return Loader(
        cast(Samples, rows), plan, lambda some, bucket: {"n": torch.tensor([int(row["id"][1:]) for row in some])}
    )


def epoch(chosen: Loader) -> list[list[int]]:
    batches = [next(chosen)["n"].tolist() for _ in range(len(chosen))]
    chosen.close()
    return batches


@pytest.mark.parametrize("rows", [latents(), pictures()], ids=["latents", "pictures"])
def test_the_second_stage_sees_pictures_with_a_product_alone(rows: Rows) -> None:
    chosen = with_products(loader(rows))
    seen = [number for batch in epoch(chosen) for number in batch]
    assert len(seen) == len(set(seen)) == 20
    assert all(number % 2 == 0 for number in seen)


def test_without_any_product_it_sees_all_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rows = latents()
    for row in rows.rows:
        row["has_product"] = 0
    assert len(with_products(loader(rows)).plan.sizes) == 2
    assert "no sample has a product mask" in caplog.text


def test_with_products_everywhere_nothing_changes() -> None:
    rows = latents()
    for row in rows.rows:
        row["has_product"] = 1
    plain = loader(rows)
    assert with_products(plain) is plain


@pytest.mark.parametrize("rows", [latents(), pictures()], ids=["latents", "pictures"])
def test_the_curated_set_is_a_list_or_the_longest_captions_of_products(rows: Rows) -> None:
    by_caption = curated(loader(rows), CuratedStageSection(share=0.2), None)
    assert sorted(number for batch in epoch(by_caption) for number in batch) == [32, 34, 36, 38]
    listed = curated(loader(rows), CuratedStageSection(ids="picked.txt"), {"p3", "p30", "p31", "elsewhere"})
    assert listed.plan.sizes == {"1x1": 1, "3x4": 2}
    with pytest.raises(BackdropError, match=r"None of the 1 curated images of picked\.txt"):
        curated(loader(rows), CuratedStageSection(ids="picked.txt"), {"elsewhere"})


def test_batches_stay_in_their_bucket_and_are_the_same_on_two_ranks_and_after_a_restart() -> None:
    chosen = select(loader(latents()), np.arange(0, 40, 2))
    batches = [chosen.plan.batch(number) for number in range(8)]
    for batch in batches:
        inside = batch.samples < 24
        assert inside.all() if batch.bucket == "1x1" else not inside.any()
    halves = [chosen.at(5, rank, 2) for rank in range(2)]
    assert [n for half in halves for n in next(half)["n"].tolist()] == batches[5].samples.tolist()
    for half in halves:
        half.close()


def test_what_is_dropped_of_the_selection_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "training.loader"):
        select(loader(latents()), np.array([0, 1, 2, 3, 4, 30]))
    assert "bucket 1x1: 1 of 5 samples are in no batch of 4" in caplog.text
    assert "bucket 3x4: 1 of 1 samples are in no batch of 4" in caplog.text


def test_a_bucket_without_a_chosen_sample_is_not_there() -> None:
    plan = Plan(0, {"1x1": [24], "3x4": [16]}, 4).only(np.array([25, 26, 30]))
    assert plan.sizes == {"3x4": 3}
    assert plan.batch_size == 3
    assert sorted(plan.batch(0).samples.tolist()) == [25, 26, 30]
