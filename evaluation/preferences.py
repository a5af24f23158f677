"""Pairs of which one is surely the better: what a reward model learns from.

The sample catalogue gives them for nothing: it knows what its captions name: its own picture with its caption against
the same with one thing wrong, in the caption or in the picture. People's judgements come from a labelling file:

    {"caption": "a bottle on a red floor", "better": "a.png", "worse": "b.png", "mask": "mask.png"}

one JSON object per line, pictures by path (relative to the file), the mask white on the product.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation.measure import Picture
from evaluation.palette import NAMES
from infra.errors import BackdropError
from infra.images import BadImage, decode, decode_mask
from training.editing import composite

SIDE = 64
"""Pixels at which pictures are judged; larger ones are reduced."""

CAPTION_KINDS = ("wall name", "floor name", "names exchanged", "light named")
PICTURE_KINDS = ("background", "light", "floor line", "grown product", "blur", "cast")
LABELLED = "labelled"

Decode = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 (N, S, S, 3) → the same as the line's autoencoder gives them back."""


@dataclass(frozen=True)
class Preference:
    """`better` with `caption` over `worse` with `worse_caption`: uint8 (`SIDE`, `SIDE`, 3), composites of one product.

    `kind` says what the worse one lacks.
    """

    better: np.ndarray
    worse: np.ndarray
    product: np.ndarray  # bool (SIDE, SIDE)
    caption: str
    worse_caption: str
    kind: str


def catalogue_preferences(
    samples: Sequence[Picture], seed: int, decoded: Decode = lambda images: images
) -> list[Preference]:
    """A pair of each kind that applies, per picture of the catalogue. The same arguments give the same pairs.

    Backgrounds of every other sample, the better and the worse one alike, go through `decoded`: what is to be ranked
    later is generated, and must not be judged by that.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} samples: another one's background is needed")
    rng = np.random.default_rng(seed)
    images = np.stack([reduced(sample.image) for sample in samples])
    products = np.stack([reduced_mask(sample.product) for sample in samples])
    empty = [_without(image, product) for image, product in zip(images, products, strict=True)]
    others = np.roll(rng.permutation(len(samples)), 1)
    worse = {kind: images.copy() for kind in PICTURE_KINDS}
    for row, product in enumerate(products):
        worse["background"][row] = empty[others[row] if others[row] != row else row - 1]
        worse["light"][row] = empty[row][:, ::-1]
        worse["floor line"][row] = _moved(empty[row], rng)
        worse["grown product"][row] = _grown(images[row], product, int(rng.integers(2, 6)))
        worse["blur"][row] = cv2.GaussianBlur(empty[row], (0, 0), rng.uniform(1.5, 4))
        worse["cast"][row] = np.clip(images[row] * rng.uniform(0.6, 1.4, 3), 0, 255)
    better = images.copy()
    better[::2] = decoded(images[::2])
    for pictures in worse.values():
        pictures[::2] = decoded(pictures[::2])
    better = composite(images, better, products)
    worse = {kind: composite(images, pictures, products) for kind, pictures in worse.items()}
    pairs = []
    for row, sample in enumerate(samples):
        shown = better[row]
        own = Preference(shown, shown, products[row], sample.caption, sample.caption, "")
        pairs += [replace(own, worse=pictures[row], kind=kind) for kind, pictures in worse.items()]
        edited = misnamed(sample.caption, sample.attributes, rng)
        pairs += [replace(own, worse_caption=caption, kind=kind) for kind, caption in edited.items()]
    return pairs


def misnamed(caption: str, attributes: Mapping[str, Any], rng: np.random.Generator) -> dict[str, str]:
    """Kind of `CAPTION_KINDS` → the caption with that attribute wrong; kinds that it does not name are left out."""
    wall, floor = str(attributes["wall"]), str(attributes["floor"])
    free = [name for name in NAMES if name not in (wall, floor)]
    other = free[rng.integers(len(free))]
    swaps = {
        "wall name": {wall: other},
        "floor name": {} if floor == wall else {floor: other},
        "names exchanged": {} if floor == wall else {wall: floor, floor: wall},
        "light named": {"left": "right", "right": "left"},
    }
    edited = {kind: _renamed(caption, words) for kind, words in swaps.items()}
    return {kind: text for kind, text in edited.items() if text != caption}


def read_labels(path: Path) -> list[Preference]:
    """The pairs of a labelling file.

    Raises:
        BackdropError: no such file, no rows, or a row that is not as this module says; it names the line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BackdropError(f"the labelling file {path} cannot be read: {error}", "give a text, JSON by line") from None
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise BackdropError(f"the labelling file {path} holds no pair", "one JSON object per line is needed")
    return [_labelled(path, number, line) for number, line in rows]


def _labelled(path: Path, number: int, line: str) -> Preference:
    what = f"{path}, line {number}"
    remedy = 'each line is {"caption": …, "better": <path>, "worse": <path>, "mask": <path>}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BackdropError(f"{what} is no JSON: {error}", remedy) from None
    wanted = {"caption", "better", "worse", "mask"}
    if not isinstance(row, dict) or set(row) != wanted or not all(isinstance(row[name], str) for name in wanted):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise BackdropError(f"{what} holds {found}, not {sorted(wanted)} as texts", remedy)
    try:
        better, worse = (decode((path.parent / row[name]).read_bytes()) for name in ("better", "worse"))
        mask = decode_mask((path.parent / row["mask"]).read_bytes())
    except (OSError, BadImage) as error:
        raise BackdropError(f"{what} names a picture that cannot be read: {error}", remedy) from None
    if not better.shape == worse.shape == (*mask.shape, 3):
        raise BackdropError(f"{what}: pictures {better.shape}, {worse.shape} and mask {mask.shape} differ", remedy)
    small = reduced(better), reduced(worse), reduced_mask(mask)
    return Preference(*small, row["caption"], row["caption"], LABELLED)


def reduced(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) at `SIDE`."""
    return image if image.shape[:2] == (SIDE, SIDE) else cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def reduced_mask(mask: np.ndarray) -> np.ndarray:
    """bool (H, W) at `SIDE`: a pixel that is half covered belongs to the product."""
    if mask.shape == (SIDE, SIDE):
        return mask
    return cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) >= 0.5


def _renamed(text: str, words: Mapping[str, str]) -> str:
    """`text` with whole words put in each other's place, all at once."""
    if not words:
        return text
    known = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b")
    return known.sub(lambda match: words[match[1]], text)


def _without(image: np.ndarray, product: np.ndarray) -> np.ndarray:
    """The picture with its product painted over from around it; its shadow stays."""
    hole = cv2.dilate(product.astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.inpaint(image, hole, 3.0, cv2.INPAINT_TELEA)


def _moved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture moved up or down by a tenth to a quarter of its height, its edge row repeated."""
    rows = np.arange(SIDE) + int(rng.choice((-1, 1)) * rng.integers(SIDE // 10, SIDE // 4))
    return image[rows.clip(0, SIDE - 1)]


def _grown(image: np.ndarray, product: np.ndarray, pixels: int) -> np.ndarray:
    """The picture with its product larger by a rim: each of its pixels has the colour of the nearest one inside."""
    if not product.any():
        return image
    distance, nearest = cv2.distanceTransformWithLabels(
        (~product).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inside = np.zeros(int(nearest.max()) + 1, np.int64)
    inside[nearest[product]] = np.flatnonzero(product)
    colours = image.reshape(-1, 3)[inside[nearest]]  # (S, S, 3)
    return np.where((distance <= pixels)[..., None], colours, image)
