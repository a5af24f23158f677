"""Writes the sample catalogue as a delivery of loose files, as if somebody had sent it.

    images/<number>.jpg      the photographs and the dirt between them
    masks/<number>.png       the product, 255 (none where the file is no image)
    manifest.jsonl           one row per file; the folder takes its name only when it is whole

Every file is a pure function of the arguments, so the bytes do not depend on the number of workers, and a
delivery that was interrupted is written again from the start.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from assets.sample_catalogue.dirt import KINDS, QUALITY, plant
from assets.sample_catalogue.renderer import Scene, render
from assets.sample_catalogue.scene import HOLDOUT_START
from infra.errors import BackdropError
from infra.images import encode_jpeg, encode_png
from infra.processes import end_with_parent

LICENCE = "CC0-1.0"
SOURCE = "sample catalogue"
MANIFEST = "manifest.jsonl"
_CHUNK = 64
_ARGUMENTS = ".order.json"  # hidden: no part of what is delivered
# Which variant of dirt a file gets: apart from every stream of the renderer.
_DIRT_STREAM = 3


@dataclass(frozen=True)
class Order:
    """What to write; two equal orders give equal bytes."""

    count: int  # clean training photographs
    holdout: int  # held-out photographs, beside them
    size: int  # pixels
    seed: int
    dirt: float  # dirty files beside them, as a share of `count`

    def __post_init__(self) -> None:
        if self.count < 1 or self.holdout < 0 or not 0 <= self.dirt <= 1 or self.size < 16:
            raise BackdropError(
                f"the sample catalogue cannot be drawn as {self}",
                "give count ≥ 1, holdout ≥ 0, size ≥ 16 and dirt between 0 and 1",
            )


@dataclass(frozen=True)
class Item:
    """One file of the delivery."""

    number: int  # its name
    index: int  # the scene it shows
    split: str  # train | holdout
    planted: str | None = None  # kind of dirt
    of: int | None = None  # number of the file it repeats

    @property
    def path(self) -> str:
        return f"images/{self.number:06d}.jpg"


def plan(order: Order) -> list[Item]:
    """All files in delivery order: clean training photographs, the dirt, then the held-out ones."""
    items = [Item(k, k, "train") for k in range(order.count)]
    dirty = max(round(order.dirt * order.count), len(KINDS)) if order.dirt else 0
    rng = np.random.default_rng([order.seed, 0, _DIRT_STREAM])
    copied = rng.permutation(order.count)  # no photograph is copied twice while there are enough
    for k in range(dirty):
        number, kind = order.count + k, KINDS[k % len(KINDS)]
        if kind in ("duplicate", "near duplicate"):
            original = int(copied[k % order.count])
            items.append(Item(number, original, "train", kind, original))
        else:
            items.append(Item(number, number, "train", kind))
    first = len(items)
    items += [Item(first + k, HOLDOUT_START + k, "holdout") for k in range(order.holdout)]
    return items


def write_delivery(
    folder: Path,
    *,
    count: int,
    holdout: int,
    size: int,
    seed: int,
    dirt: float,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the delivery unless the folder already holds this very one; returns the manifest's path.

    Args:
        folder: becomes the delivery; what else lies there under that name is replaced.
        workers: processes; 1 draws in this one.
        progress: called with (files done, files in all).

    Raises:
        BackdropError: arguments that describe no catalogue.
    """
    order = Order(count, holdout, size, seed, dirt)
    if _is_whole(folder, order):
        return folder / MANIFEST
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    for name in ("images", "masks"):
        (aside / name).mkdir(parents=True)
    items = plan(order)
    rows: list[str] = []
    for chunk_rows in _write_chunks(aside, order, items, workers):
        rows += chunk_rows
        if progress:
            progress(len(rows), len(items))
    (aside / _ARGUMENTS).write_text(json.dumps(asdict(order)))
    (aside / MANIFEST).write_text("".join(rows))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return folder / MANIFEST


def _is_whole(folder: Path, order: Order) -> bool:
    try:
        return bool(json.loads((folder / _ARGUMENTS).read_text()) == asdict(order))
    except (OSError, ValueError):
        return False


def _write_chunks(folder: Path, order: Order, items: list[Item], workers: int) -> Iterator[list[str]]:
    chunks = [items[k : k + _CHUNK] for k in range(0, len(items), _CHUNK)]
    work = partial(_write_chunk, folder, order)
    if workers <= 1:
        yield from map(work, chunks)
        return
    # spawn: the caller may hold threads and database connections that must not be forked.
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
    ) as pool:
        yield from pool.map(work, chunks)


def _write_chunk(folder: Path, order: Order, items: list[Item]) -> list[str]:
    """Draws and writes some files; returns their manifest lines."""
    cv2.setNumThreads(1)  # the pool already uses every core
    return [json.dumps(_write(folder, order, item), ensure_ascii=False) + "\n" for item in items]


def _write(folder: Path, order: Order, item: Item) -> dict[str, Any]:
    scene = render(order.seed, item.index, order.size)
    jpeg = encode_jpeg(scene.image, QUALITY)
    if item.planted:
        jpeg = plant(
            item.planted,
            scene.image,
            jpeg,
            np.random.default_rng([order.seed, item.number, _DIRT_STREAM]),
        )
    (folder / item.path).write_bytes(jpeg)
    mask = None
    if item.planted != "not an image":
        mask = f"masks/{item.number:06d}.png"
        (folder / mask).write_bytes(encode_png(scene.product_mask.astype(np.uint8) * 255))
    return {
        "path": item.path,
        "mask": mask,
        "captions": scene.captions,
        "attributes": _attributes(scene, item),
        "split": item.split,
        "licence": LICENCE,
        "source": SOURCE,
    }


def _attributes(scene: Scene, item: Item) -> dict[str, Any]:
    attributes = dict(scene.attributes)
    if item.planted:
        attributes["planted"] = item.planted
        attributes["of"] = None if item.of is None else f"images/{item.of:06d}.jpg"
    if item.split == "holdout":
        # Evaluation measures wall and floor apart and may not draw the scene again: the truth travels.
        attributes["regions"] = base64.b64encode(encode_png(scene.regions())).decode()
    return attributes
