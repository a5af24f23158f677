"""The filters one by one: what they must drop, and above all what they must not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from assets.curation.duplicates import THUMB, Known, find_copies, phash, residual, thumbnail
from assets.curation.filters.base import DROP, KEEP
from assets.curation.filters.size import SizeFilter
from assets.curation.filters.text_overlay import TextOverlayFilter, longest_line
from assets.curation.pool import Workers
from assets.curation.scan import Task, pack, scan
from assets.curation.specs import CurationSection
from assets.sample_catalogue.dirt import write_text
from assets.sample_catalogue.renderer import render
from infra.files import sha256_bytes
from infra.images import decode, encode_jpeg, encode_png
from infra.settings import REPOSITORY

NOTHING_KNOWN = Known([], [], lambda _: None)


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [render(5, index, 64).image for index in range(150)]


def copies(pictures: list[np.ndarray], known: Known = NOTHING_KNOWN) -> dict[str, str]:
    ids = [str(k) for k in range(len(pictures))]
    section = CurationSection()
    found = find_copies(
        ids,
        [phash(picture) for picture in pictures],
        [thumbnail(picture) for picture in pictures],
        known,
        max_distance=section.hash_distance,
        max_residual=section.residual,
    )
    return {image_id: match.of for image_id, match in found.items()}


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return decode(encode_jpeg(image, quality))


def cropped(image: np.ndarray) -> np.ndarray:
    edge = max(1, round(image.shape[0] * 0.01))
    return cv2.resize(np.ascontiguousarray(image[edge:-edge, edge:-edge]), image.shape[1::-1])


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "re-encoded": lambda image: jpeg(image, 50),
    "brighter": lambda image: np.clip(image * 1.05 + 4, 0, 255).astype(np.uint8),
    "smaller": lambda image: cv2.resize(image, (44, 44), interpolation=cv2.INTER_AREA),
    "cropped": cropped,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(scenes: list[np.ndarray], change: str) -> None:
    originals = scenes[:40]
    found = copies(originals + [CHANGES[change](picture) for picture in originals])
    assert found == {str(40 + k): str(k) for k in range(40)}


def test_look_alikes_stay(scenes: list[np.ndarray]) -> None:
    assert copies(scenes) == {}


def test_the_same_scene_with_the_object_elsewhere_stays() -> None:
    def scene(x: int, colour: tuple[int, int, int]) -> np.ndarray:
        image = np.full((128, 128, 3), (180, 60, 50), np.uint8)
        image[80:] = (90, 90, 90)
        cv2.circle(image, (x, 84), 18, colour, -1)
        return image

    blue, green = (40, 60, 190), (40, 160, 60)
    assert copies([scene(64, blue), scene(76, blue), scene(64, green)]) == {}


def test_what_an_earlier_delivery_kept_counts_and_what_cannot_be_seen_does_not(scenes: list[np.ndarray]) -> None:
    old = {"old": scenes[0]}
    look: Callable[[str], np.ndarray | None] = lambda image_id: thumbnail(old[image_id])  # noqa: E731
    again = [jpeg(scenes[0], 60), scenes[1]]
    assert copies(again, Known(["old"], [phash(scenes[0])], look)) == {"0": "old"}
    assert copies(again, Known(["old"], [phash(scenes[0])], lambda _: None)) == {}


def test_flat_pictures_do_not_break_the_alignment() -> None:
    grey, white = (np.full((THUMB, THUMB, 3), level, np.uint8) for level in (120, 255))
    assert residual(grey, grey) == 0
    assert copies([grey, white]) == {}


def test_size_and_aspect() -> None:
    judge = SizeFilter(64, 4.0).judge
    assert judge(np.zeros((64, 64, 3), np.uint8)).decision == KEEP
    small = judge(np.zeros((63, 200, 3), np.uint8))
    assert small.decision == DROP
    assert "too small: 200 × 63" in small.reason
    assert "aspect" in judge(np.zeros((64, 300, 3), np.uint8)).reason


def test_clean_scenes_have_no_text(scenes: list[np.ndarray]) -> None:
    assert max(longest_line(picture) for picture in scenes) < 3


@pytest.mark.parametrize("size", [64, 256])
def test_most_drawn_texts_are_seen(size: int) -> None:
    rng = np.random.default_rng(0)
    check = TextOverlayFilter(4)
    written = [write_text(render(6, index, size).image, rng) for index in range(60)]
    seen = sum(check.judge(picture).decision == DROP for picture in written)
    assert seen >= (36 if size == 64 else 24)


def test_a_caption_line_on_a_photograph_is_seen() -> None:
    rng = np.random.default_rng(1)
    image = cv2.resize(rng.integers(60, 200, (16, 16, 3), dtype=np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
    assert longest_line(image) < 4
    cv2.putText(image, "SPECIAL OFFER", (40, 480), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 4, cv2.LINE_AA)
    assert longest_line(image) >= 6


def test_photographs_are_rarely_taken_for_overlays() -> None:
    folder = os.environ.get("BACKDROP_SAMPLES")
    if not folder:
        pytest.skip("BACKDROP_SAMPLES is not set: no real photographs to judge")
    paths = sorted((Path(folder) / "photos" / "images").glob("*.jpg"))[::3]
    check = TextOverlayFilter(4)
    dropped = [path.name for path in paths if check.judge(decode(path.read_bytes())).decision == DROP]
    assert len(dropped) <= 0.03 * len(paths), dropped


def saved(path: Path, data: bytes) -> Task:
    path.write_bytes(data)
    return Task(0, sha256_bytes(data), path.as_uri(), None)


def test_a_scan_answers_whatever_the_bytes_are(tmp_path: Path, scenes: list[np.ndarray]) -> None:
    config = CurationSection()
    whole = encode_jpeg(scenes[0])
    reasons = {}
    for name, data in {"cut": whole[:900], "page": b"<html>", "empty": b"", "whole": whole}.items():
        found = scan(saved(tmp_path / name, data), config, 64)
        reasons[name] = found.dropped.reason.split(":")[0] if found.dropped else ""
    assert reasons == {"cut": "truncated", "page": "not an image", "empty": "empty", "whole": ""}
    gone = scan(Task(0, "0" * 64, (tmp_path / "gone").as_uri(), None), config, 64)
    assert gone.dropped is not None
    assert gone.dropped.reason.startswith("vanished")
    changed = scan(Task(0, "0" * 64, (tmp_path / "whole").as_uri(), None), config, 64)
    assert changed.dropped is not None
    assert changed.dropped.reason.startswith("changed")


def test_packing_keeps_the_bytes_unless_they_are_too_large(tmp_path: Path) -> None:
    image = np.full((300, 200, 3), 80, np.uint8)
    data, mask = encode_jpeg(image), np.zeros((300, 200), np.uint8)
    mask[50:100] = 255
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "m.png").write_bytes(encode_png(mask))
    uri, mask_uri = (tmp_path / "a.jpg").as_uri(), (tmp_path / "m.png").as_uri()
    same = pack(uri, mask_uri, b"", 200, 300, 1024)
    assert (same.image, same.mask) == (data, encode_png(mask))
    smaller = pack(uri, mask_uri, b"", 200, 300, 150)
    assert (smaller.width, smaller.height) == (100, 150)
    assert decode(smaller.image).shape == (150, 100, 3)
    with Image.open(io.BytesIO(smaller.mask)) as picture:
        assert (picture.mode, picture.size) == ("L", (100, 150))
        assert 0.1 < np.asarray(picture).mean() / 255 < 0.25
    (tmp_path / "m.png").write_bytes(encode_png(np.zeros((300, 300), np.uint8)))
    refused = pack(uri, mask_uri, b"", 200, 300, 1024)
    assert refused.mask == b""
    assert "300 × 300" in refused.note


def die_on_seven(items: list[int]) -> list[int]:
    """A worker that ends without a word on one item."""
    if 7 in items:
        os._exit(9)
    return [item * 2 for item in items]


def whose_child(items: list[int]) -> list[int]:
    """The process ids of a worker, once per item."""
    return [os.getpid() for _ in items]


_PARENT = """
import time
from assets.curation.pool import Workers
from tests.assets.test_curation_filters import whose_child
if __name__ == "__main__":
    with Workers(2) as workers:
        print(*set(workers.map(whose_child, list(range(64)), dead=int, chunk=1)), flush=True)
        time.sleep(60)
"""


@pytest.mark.integration
def test_workers_do_not_outlive_a_killed_job(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


@pytest.mark.integration
def test_a_file_that_kills_its_worker_costs_only_itself() -> None:
    with Workers(2) as workers:
        found = list(workers.map(die_on_seven, list(range(20)), dead=lambda item: -item, chunk=4))
    assert found == [-7 if k == 7 else 2 * k for k in range(20)]
