"""Some of the samples that a loader reads: those with a product mask, or a small curated set of them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from infra.errors import BackdropError
from training.loader import Loader, log_dropped
from training.presets.sections import CuratedStageSection

log = logging.getLogger(__name__)

_READ_AT_ONCE = 4096
_READERS = 8
"""Threads: a sample that is read has its whole shard fetched and hashed."""


def select(loader: Loader, chosen: np.ndarray) -> Loader:
    """`loader` over the samples of these numbers, ascending, alone. Says in the log what is dropped of them."""
    plan = loader.plan.only(chosen)
    log_dropped(plan)
    return Loader(loader.samples, plan, loader.collate, threads=loader.threads)


def with_products(loader: Loader) -> Loader:
    """The samples with a product mask; all of them, with a warning, where none has one."""
    chosen = np.flatnonzero([has for has, _ in _facts(loader)])
    if not len(chosen):
        log.warning("no sample has a product mask: training on random masks in their stead")
        return loader
    return loader if len(chosen) == len(loader.samples) else select(loader, chosen)


def curated(loader: Loader, section: CuratedStageSection, ids: Collection[str] | None) -> Loader:
    """The samples of a list of `ids`; without one, `section.share` of those with a product, the longest captions first.

    Raises BackdropError when none of `ids` is there.
    """
    if ids is not None:
        rows = _rows(loader, ["id"])
        chosen = np.flatnonzero([row["id"] in ids for row in rows])
        if not len(chosen):
            raise BackdropError(
                f"None of the {len(ids)} curated images of {section.ids} is in the training set.",
                "List ids of delivered images, one per line.",
            )
        return select(loader, chosen)
    facts = np.array([(bool(has), length) for has, length in _facts(loader)])
    with_product = np.flatnonzero(facts[:, 0]) if facts[:, 0].any() else np.arange(len(facts))
    count = max(1, round(section.share * len(with_product)))
    longest = with_product[np.argsort(-facts[with_product, 1], kind="stable")][:count]
    return select(loader, np.sort(longest))


def _facts(loader: Loader) -> list[tuple[bool, int]]:
    """Of each sample: whether it has a product mask, and how long its longest caption is."""
    (first,) = loader.samples.read(np.array([0]))
    if "has_product" in first:  # precomputed latents; else pictures
        rows = _rows(loader, ["has_product", "text_length"])
        return [(bool(row["has_product"]), int(row["text_length"].max())) for row in rows]
    rows = _rows(loader, ["mask", "captions"])
    return [(bool(row["mask"]), max((len(text) for text in row["captions"]), default=0)) for row in rows]


def _rows(loader: Loader, columns: list[str]) -> list[dict[str, Any]]:
    numbers = np.arange(len(loader.samples))
    parts = [numbers[first : first + _READ_AT_ONCE] for first in range(0, len(numbers), _READ_AT_ONCE)]
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda part: loader.samples.read(part, columns), parts))
    return [row for rows in found for row in rows]
