"""The embedded segmenter: sure of clear products, unsure of the rest, and never falling over."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from assets.curation.specs import CurationSection
from assets.sample_catalogue.renderer import render
from evaluation.segmentation import segment
from infra.images import decode

SURE = CurationSection().mask_confidence


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def product(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured red ball on grey paper, and its mask."""
    rng = np.random.default_rng(2)
    image = np.clip(rng.normal(150, 5, (height, width, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2, height // 2), min(height, width) // 4, 1, -1)
    image[mask > 0] = np.clip(rng.normal((190, 40, 30), 12, (int(mask.sum()), 3)), 0, 255)
    return image, mask > 0


@pytest.mark.parametrize("shape", [(64, 64), (300, 200), (700, 1100)])
def test_a_clear_product_is_found(shape: tuple[int, int]) -> None:
    image, truth = product(*shape)
    mask, confidence = segment(image)
    assert mask.shape == shape
    assert mask.dtype == bool
    assert overlap(mask, truth) > 0.9
    assert confidence >= SURE


def test_the_same_picture_gives_the_same_mask() -> None:
    image = render(1, 4, 128).image
    first, second = segment(image), segment(image)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_confident_masks_of_rendered_products_are_right() -> None:
    right, sure = 0, 0
    for index in range(24):
        scene = render(9, index, 96)
        mask, confidence = segment(scene.image)
        if confidence >= SURE:
            sure += 1
            right += overlap(mask, scene.product_mask) > 0.6
    assert sure >= 4
    assert right >= 0.75 * sure


def test_bars_beside_a_photograph_are_not_its_background() -> None:
    image, truth = product(200, 140)
    barred = np.zeros((200, 200, 3), np.uint8)
    barred[:, 30:170] = image
    mask, confidence = segment(barred)
    assert overlap(mask[:, 30:170], truth) > 0.9
    assert not mask[:, :30].any()
    assert confidence >= SURE


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_has_no_product(level: int) -> None:
    mask, confidence = segment(np.full((60, 90, 3), level, np.uint8))
    assert mask.shape == (60, 90)
    assert confidence < SURE


def test_noise_and_slivers_do_not_break_it() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    assert segment(noise)[1] < SURE
    assert segment(noise[:3, :50])[0].shape == (3, 50)
    assert segment(noise[:1, :1])[0].shape == (1, 1)


def test_a_third_of_real_product_photographs_get_a_confident_mask() -> None:
    folder = os.environ.get("BACKDROP_SAMPLES")
    if not folder:
        pytest.skip("BACKDROP_SAMPLES is not set: no real photographs to cut")
    paths = sorted((Path(folder) / "photos" / "images").glob("dreambooth_*.jpg"))[::6]
    confidences = [segment(decode(path.read_bytes()))[1] for path in paths]
    assert np.mean(np.array(confidences) >= SURE) >= 1 / 3
