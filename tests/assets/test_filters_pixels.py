"""What the pixel filters must drop, and above all what they must not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from assets.curation.filters import ORDER, build_filters
from assets.curation.filters.base import DROP, KEEP, UNSURE, Judgement, Picture
from assets.curation.filters.detail import DetailFilter, edge_width, octave_loss
from assets.curation.filters.exposure import ExposureFilter
from assets.curation.filters.graphics import GraphicsFilter
from assets.curation.filters.settings import FilterSection
from assets.curation.filters.size import SizeFilter
from assets.sample_catalogue.renderer import render
from infra.images import decode, encode_jpeg

SECTION = FilterSection()
DETAIL, EXPOSURE = DetailFilter(SECTION.detail), ExposureFilter(SECTION.exposure)
GRAPHICS = GraphicsFilter(SECTION.graphics)
Change = Callable[[np.ndarray], np.ndarray]


def picture(pixels: np.ndarray, size: int = 0) -> Picture:
    return Picture("0", np.ascontiguousarray(pixels), ("a mug on a table",), "jpeg", size)


def jpeg(pixels: np.ndarray, quality: int = 90) -> Picture:
    data = encode_jpeg(np.ascontiguousarray(pixels), quality)
    return picture(decode(data), len(data))


def textured(seed: int, size: int = 512) -> np.ndarray:
    """A scene with the spectrum of a photograph: amplitude falls with frequency, and things stand before others."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size, 3), np.float32)
    for octave in range(1, 10):
        grain = rng.normal(0, 1, (min(size, 2**octave), min(size, 2**octave), 3)).astype(np.float32)
        image += 14 * cv2.resize(grain, (size, size), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(image + rng.integers(70, 180, 3), 0, 255).astype(np.uint8)
    for _ in range(12):
        x, y, r = (int(value) for value in rng.integers((0, 0, 12), (size, size, 70)))
        shade = rng.integers(20, 236, 3).tolist()
        disc = np.zeros((size, size, 1), np.float32)
        cv2.circle(disc, (x, y), r, 1.0, -1, cv2.LINE_AA)
        pixels = (
            pixels * (1 - 0.75 * disc[..., None].reshape(size, size, 1))
            + 0.75 * disc.reshape(size, size, 1) * np.array(shade)
        ).astype(np.uint8)
    return pixels


def enlarged(method: int, times: int) -> Change:
    def change(pixels: np.ndarray) -> np.ndarray:
        size = pixels.shape[1::-1]
        small = cv2.resize(pixels, (size[0] // times, size[1] // times), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, size, interpolation=method)

    return change


def moved(pixels: np.ndarray) -> np.ndarray:
    return cv2.filter2D(pixels, -1, np.full((1, 31), 1 / 31, np.float32))


POOR: dict[str, tuple[Change, str]] = {
    "blurred": (lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 6), "blurred"),
    "camera moved": (moved, "blurred"),
    "four times": (enlarged(cv2.INTER_CUBIC, 4), "enlarged"),
    "eight times, smooth": (enlarged(cv2.INTER_CUBIC, 8), ""),
    "four times, repeated pixels": (enlarged(cv2.INTER_NEAREST, 4), "enlarged"),
    "seven times, repeated pixels": (enlarged(cv2.INTER_NEAREST, 7), "enlarged"),
}


@pytest.mark.parametrize("name", POOR)
def test_a_picture_without_its_size_in_detail_is_dropped(name: str) -> None:
    change, reason = POOR[name]
    for seed in range(4):
        whole = textured(seed)
        assert DETAIL.judge(jpeg(whole)).decision == KEEP
        found = DETAIL.judge(jpeg(change(whole)))
        assert found.decision == DROP, found
        assert found.reason.startswith(reason)
        assert found.score >= 1


def test_crushed_by_compression() -> None:
    for seed in range(4):
        assert DETAIL.judge(jpeg(textured(seed), 3)).reason.startswith("compression")
        assert DETAIL.judge(jpeg(textured(seed), 40)).decision == KEEP


@pytest.mark.parametrize("grain", [1, 3])
def test_noise_is_no_picture(grain: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512 // grain, 512 // grain, 3), dtype=np.uint8)
    found = DETAIL.judge(picture(np.kron(noise, np.ones((grain, grain, 1), np.uint8))))
    assert found.decision == DROP
    assert (
        DETAIL.judge(
            jpeg(np.clip(textured(1) + np.random.default_rng(1).normal(0, 12, (512, 512, 3)), 0, 255).astype(np.uint8))
        ).decision
        == KEEP
    )


def test_a_sharp_subject_before_a_blurred_background_stays() -> None:
    whole = textured(2)
    shallow = cv2.GaussianBlur(whole, (0, 0), 9)
    shallow[180:330, 180:330] = whole[180:330, 180:330]
    assert DETAIL.judge(jpeg(shallow)).decision == KEEP


def test_edges_that_are_there_in_colour_only_are_seen() -> None:
    pixels = np.full((256, 256, 3), (150, 100, 100), np.uint8)
    pixels[60:200, 60:200] = (70, 141, 100)  # the same luma
    pixels = np.clip(pixels + np.linspace(0, 60, 256)[None, :, None], 0, 255).astype(np.uint8)
    assert DETAIL.judge(picture(pixels)).decision == KEEP


def test_edge_width_is_that_of_a_gaussian_step() -> None:
    step = np.where(np.arange(256) < 128, 40.0, 220.0)
    for sigma in (1.0, 2.0, 3.0):
        plane = cv2.GaussianBlur(np.tile(step, (256, 1)), (0, 0), sigma).astype(np.uint8)
        assert edge_width(plane) == pytest.approx(sigma * np.sqrt(2 * np.pi), rel=0.12)


def test_octave_loss_is_none_in_noise_and_large_after_smoothing() -> None:
    plane = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    assert octave_loss(plane) < 1
    assert octave_loss(cv2.GaussianBlur(plane, (0, 0), 2.5)) > 2.5
    assert octave_loss(np.full((256, 256), 90, np.uint8)) == 0


EXPOSED: dict[str, tuple[Change, str]] = {
    "dark": (lambda pixels: (pixels * 0.12).astype(np.uint8), "too dark"),
    "light": (lambda pixels: np.clip(pixels * 0.1 + 230, 0, 255).astype(np.uint8), "too light"),
    "black": (np.zeros_like, "too dark"),
    "white": (lambda pixels: np.full_like(pixels, 255), "nothing in it"),
    "grey": (lambda pixels: np.full_like(pixels, 127), "nothing in it"),
    "gradient": (
        lambda pixels: np.repeat(np.linspace(60, 190, 512)[:, None, None], 512, 1).repeat(3, 2).astype(np.uint8),
        "nothing",
    ),
}


@pytest.mark.parametrize("name", EXPOSED)
def test_nothing_to_see(name: str) -> None:
    change, reason = EXPOSED[name]
    found = EXPOSURE.judge(jpeg(change(textured(3))))
    assert found.decision == DROP
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("level", [0, 255])
def test_a_product_on_a_plain_backdrop_stays(level: int) -> None:
    pixels = np.full((512, 512, 3), level, np.uint8)
    pixels[200:330, 210:300] = textured(4)[200:330, 210:300]
    for check in (EXPOSURE, GRAPHICS, DETAIL):
        found = check.judge(jpeg(pixels))
        assert found.decision == KEEP, found


def logo() -> np.ndarray:
    pixels = np.full((512, 512, 3), 255, np.uint8)
    cv2.circle(pixels, (256, 190), 110, (20, 90, 200), -1, cv2.LINE_AA)
    cv2.rectangle(pixels, (120, 350), (390, 400), (230, 120, 20), -1)
    return pixels


def grid(columns: int, rows: int, gutter: int) -> np.ndarray:
    pixels = np.full((512, 512, 3), 255, np.uint8)
    width, height = (512 - gutter * (columns - 1)) // columns, (512 - gutter * (rows - 1)) // rows
    for column in range(columns):
        for row in range(rows):
            tile = cv2.resize(textured(10 + 3 * row + column), (width, height), interpolation=cv2.INTER_AREA)
            tile = np.clip(tile * (0.6 if (row + column) % 2 else 1.1), 0, 255).astype(np.uint8)
            x, y = column * (width + gutter), row * (height + gutter)
            pixels[y : y + height, x : x + width] = tile
    return pixels


@pytest.mark.parametrize(("columns", "rows", "gutter"), [(2, 2, 0), (2, 2, 8), (3, 3, 4), (2, 1, 10), (3, 1, 6)])
def test_collages_are_dropped(columns: int, rows: int, gutter: int) -> None:
    found = GRAPHICS.judge(jpeg(grid(columns, rows, gutter)))
    assert found.decision == DROP
    assert found.reason.startswith("collage")


def test_one_edge_across_the_picture_is_no_collage() -> None:
    pixels = textured(5)
    pixels[256:] = np.clip(textured(6)[256:] * 0.5, 0, 255).astype(np.uint8)
    assert GRAPHICS.judge(jpeg(pixels)).decision == KEEP


def test_logos_are_dropped() -> None:
    found = GRAPHICS.judge(jpeg(logo()))
    assert found.decision == DROP
    assert found.reason.startswith("graphic")


def test_bars_are_noted_and_a_picture_that_is_mostly_bars_is_dropped() -> None:
    def barred(rows: int) -> Judgement:
        pixels = textured(7)
        pixels[:rows] = pixels[-rows:] = 0
        return GRAPHICS.judge(jpeg(pixels))

    assert barred(60).decision == UNSURE
    assert barred(60).reason.startswith("border")
    assert barred(160).decision == DROP


def test_size_and_aspect() -> None:
    judge = SizeFilter(64, SECTION.max_aspect).judge
    assert judge(picture(np.zeros((64, 64, 3), np.uint8))).decision == KEEP
    assert "too small: 200 × 63" in judge(picture(np.zeros((63, 200, 3), np.uint8))).reason
    assert "aspect" in judge(picture(np.zeros((64, 300, 3), np.uint8))).reason


def test_the_order_is_that_of_the_names() -> None:
    assert tuple(check.name for check in build_filters(SECTION, 64)) == ORDER


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (3, 2), (17, 900), (33, 33)])
def test_no_shape_breaks_a_filter(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for check in build_filters(SECTION, 1):
        assert isinstance(check.judge(picture(pixels)), Judgement)


@pytest.mark.parametrize("size", [64, 128])
def test_no_clean_scene_is_dropped(size: int) -> None:
    checks = build_filters(SECTION, 64)
    for index in range(60):
        scene = picture(render(9, index, size).image)
        assert [j.reason for check in checks if (j := check.judge(scene)).decision == DROP] == []


def test_photographs_lose_next_to_nothing() -> None:
    folder = os.environ.get("BACKDROP_SAMPLES")
    if not folder:
        pytest.skip("BACKDROP_SAMPLES is not set: no real photographs to judge")
    paths = sorted((Path(folder) / "photos" / "images").glob("*.jpg"))
    dropped = []
    for path in paths:
        data = path.read_bytes()
        scene = picture(decode(data), len(data))
        dropped += [
            (path.name, j.reason)
            for check in (DETAIL, EXPOSURE, GRAPHICS)
            if (j := check.judge(scene)).decision == DROP
        ]
    assert len(dropped) <= 0.01 * len(paths), dropped
