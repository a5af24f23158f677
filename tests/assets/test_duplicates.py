"""Near duplicates: what must be found, and above all what must not."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from assets.curation.decide import Candidates, Known, bucket_of, find_copies, placed
from assets.curation.duplicates import HashIndex, alike, components, fingerprint, residual, thumbnail
from assets.curation.specs import FilterSpec
from assets.sample_catalogue.renderer import render
from infra.catalog.rows import CandidateRow
from infra.files import sha256_bytes
from infra.images import decode, encode_jpeg

SPEC = FilterSpec(store="-", output="-", delivery="x", image_size=64)


class Files:
    """Pictures as files, and what the catalog would know of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uris: dict[str, str] = {}
        self.marks: dict[str, tuple[int, bytes]] = {}

    def add(self, image: np.ndarray) -> str:
        """Lossless, so that what is compared is what the test made; the id of the picture."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        image_id = sha256_bytes(buffer.getvalue())
        (self.folder / f"{image_id}.png").write_bytes(buffer.getvalue())
        self.uris[image_id] = (self.folder / f"{image_id}.png").as_uri()
        self.marks[image_id] = fingerprint(image)
        return image_id

    def alike(self, first: list[str], second: list[str]) -> np.ndarray:
        return alike([self.marks[a][1] for a in first], [self.marks[b][1] for b in second])

    def places(self, image_ids: set[str]) -> dict[str, str]:
        return {one: self.uris[one] for one in image_ids if one in self.uris}

    def columns(self, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([i.encode() for i in ids], "S64"), np.array([self.marks[i][0] for i in ids], np.uint64)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def copies(files: Files, ids: list[str], known: list[str] | None = None) -> dict[int, str]:
    """index → id of what it repeats, in this order of precedence."""
    count = len(ids)
    names, hashes = files.columns(ids)
    zeros = np.zeros(count, np.int64)
    own = Candidates(names, zeros, hashes, zeros + 10, zeros.astype(np.uint8), zeros.astype(bool))
    there, theirs = files.columns(known or [])
    found = find_copies(
        own,
        Known(there, theirs, np.full(len(there), 5)),
        SPEC,
        files,
        lambda *_: None,  # type: ignore[arg-type]
    )
    return {index: match.of for index, match in found.items()}


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [render(5, index, 64).image for index in range(150)]


@pytest.fixture(scope="module")
def larger() -> list[np.ndarray]:
    return [render(7, index, 320).image for index in range(12)]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return decode(encode_jpeg(image, quality))


def cropped(image: np.ndarray, share: float = 0.01) -> np.ndarray:
    edge = max(1, round(image.shape[0] * share))
    return np.ascontiguousarray(image[edge:-edge, edge:-edge])


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "re-encoded": lambda image: jpeg(image, 50),
    "brighter": lambda image: np.clip(image * 1.05 + 4, 0, 255).astype(np.uint8),
    "smaller": lambda image: cv2.resize(image, (44, 44), interpolation=cv2.INTER_AREA),
    "cropped": lambda image: cv2.resize(cropped(image), image.shape[1::-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(files: Files, scenes: list[np.ndarray], change: str) -> None:
    originals = [files.add(picture) for picture in scenes[:40]]
    changed = [files.add(CHANGES[change](picture)) for picture in scenes[:40]]
    assert copies(files, originals + changed) == {40 + k: originals[k] for k in range(40)}


def test_a_larger_pictures_crop_is_found(files: Files, larger: list[np.ndarray]) -> None:
    originals = [files.add(picture) for picture in larger]
    crops = [files.add(jpeg(cropped(picture, 0.03), 85)) for picture in larger]
    found = copies(files, originals + crops)
    assert set(found) <= {12 + k for k in range(12)}
    assert all(found[12 + k] == originals[k] for k in range(12) if 12 + k in found)
    assert len(found) >= 10  # a crop may move the hash further than is looked


def test_look_alikes_stay(files: Files, scenes: list[np.ndarray]) -> None:
    assert copies(files, [files.add(picture) for picture in scenes]) == {}


def test_the_same_scene_with_the_object_elsewhere_stays(files: Files) -> None:
    def scene(size: int, x: float, colour: tuple[int, int, int]) -> str:
        image = np.full((size, size, 3), (180, 60, 50), np.uint8)
        image[size * 5 // 8 :] = (90, 90, 90)
        cv2.circle(image, (int(x * size), int(0.66 * size)), size // 7, colour, -1)
        return files.add(image)

    blue, green = (40, 60, 190), (40, 160, 60)
    for size in (128, 400):
        assert copies(files, [scene(size, 0.5, blue), scene(size, 0.6, blue), scene(size, 0.5, green)]) == {}


def test_what_another_delivery_keeps_counts_and_what_cannot_be_seen_does_not(
    files: Files, scenes: list[np.ndarray]
) -> None:
    old = files.add(scenes[0])
    again = [files.add(jpeg(scenes[0], 60)), files.add(scenes[1])]
    assert copies(files, again, [old]) == {0: old}
    del files.uris[old]
    assert copies(files, again, [old]) == {}


def test_flat_pictures_do_not_break_the_alignment(files: Files) -> None:
    grey, white = (np.full((64, 64, 3), level, np.uint8) for level in (120, 255))
    assert residual(thumbnail(grey), thumbnail(grey)) == 0
    assert copies(files, [files.add(grey), files.add(white)]) == {}


def test_photographs_and_their_crops(files: Files) -> None:
    folder = os.environ.get("BACKDROP_SAMPLES")
    if not folder:
        pytest.skip("BACKDROP_SAMPLES is not set: no real photographs to compare")
    paths = sorted((Path(folder) / "photos" / "images").glob("imagenet*.jpg"))[::6]
    pictures = [decode(path.read_bytes()) for path in paths]
    originals = [files.add(picture) for picture in pictures]
    crops = [files.add(jpeg(cropped(picture, 0.02), 80)) for picture in pictures]
    found = copies(files, originals + crops)
    assert all(index >= len(paths) and of == originals[index - len(paths)] for index, of in found.items())
    assert len(found) >= 0.6 * len(paths), "the hash alone loses about a quarter"


def test_the_index_finds_what_brute_force_finds() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 63, 3000, dtype=np.uint64) << np.uint64(1)
    near = base[:200].copy()
    for k in range(200):
        for bit in rng.choice(64, k % 17, replace=False):
            near[k] ^= np.uint64(1 << int(bit))
    expected = {(q, b) for q in range(200) for b in np.flatnonzero(np.bitwise_count(base ^ near[q]) <= 12).tolist()}
    found = {
        (int(q), int(b))
        for rows, hits, _ in HashIndex(base).near(near, 12, block=64)
        for q, b in zip(rows, hits, strict=True)
    }
    assert found == expected
    assert len(found) >= 150


def test_components() -> None:
    groups = components(7, np.array([1, 2, 5]), np.array([0, 1, 6]))
    assert groups == [[0, 1, 2], [5, 6]]


@pytest.mark.parametrize(
    ("size", "bucket"), [((640, 480), "4x3"), ((480, 640), "3x4"), ((512, 512), "1x1"), ((5000, 100), "2x1")]
)
def test_pictures_go_into_the_nearest_bucket(size: tuple[int, int], bucket: str) -> None:
    assert bucket_of(*size) == bucket


def test_a_tenth_is_held_out_whatever_else_is_in_the_delivery() -> None:
    rows = [CandidateRow(k, sha256_bytes(str(k).encode()), "train", 64, 64, 0) for k in range(2000)]
    held_out = [row.image_id for row in rows if placed(row, 0.1)[1]]
    assert 150 < len(held_out) < 250
    assert [row.image_id for row in reversed(rows) if placed(row, 0.1)[1]] == held_out[::-1]
    assert not any(placed(row, 0.0)[1] for row in rows)
    assert placed(replace(rows[0], split="holdout"), 0.0)[1]
