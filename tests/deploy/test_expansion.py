"""Expansion of drawn columns, the product found by its colour: what is compared, what is refused, what is left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploy.expansion import STAGE1, TRUTH, measure
from deploy.samples import Sample

SIZE, COUNT = 32, 8


def grey(images: np.ndarray) -> np.ndarray:
    """A segmenter that takes what is grey for the product."""
    return (images == 120).all(axis=-1)


def drawn(grown: int) -> np.ndarray:
    """Pictures whose product is `grown` pixels wider than 10 × 10."""
    images = np.zeros((COUNT, SIZE, SIZE, 3), np.uint8)
    for row in range(COUNT):
        images[row, 10:20, 10 : 20 + grown + row % 2 * (grown > 0)] = 120
    return images


def parts() -> Any:
    return SimpleNamespace(encode=lambda x: x, decode=lambda x: x)  # an autoencoder without loss


SAMPLES = [
    Sample(f"{k:064x}", image, grey(image[None])[0], ("a box",), {"catalogue": {}}, "s")
    for k, image in enumerate(drawn(0))
]


def test_the_stages_are_compared_and_the_truth_is_the_error_of_the_measurement() -> None:
    found = measure(
        grey, {STAGE1: drawn(6), "teacher": drawn(2), "engine": drawn(0), "Telea": drawn(9)}, SAMPLES, parts(), 0
    )
    assert found.iou == found.decoded_iou == 1
    assert found.means == pytest.approx({"engine": 0.0, "teacher": 0.25, STAGE1: 0.65, TRUTH: 0.0})
    assert found.stages is not None
    assert found.stages.passed
    assert found.as_dict()["share_of_stage1"] == pytest.approx(0.25 / 0.65)


def test_without_a_first_stage_nothing_is_compared() -> None:
    found = measure(grey, {"teacher": drawn(2), "engine": drawn(0)}, SAMPLES, parts(), 0)
    assert found.stages is None
    assert "first stage" in found.why
    assert found.means["teacher"] == pytest.approx(0.25)


def test_a_segmenter_below_the_bar_is_refused() -> None:
    found = measure(lambda images: np.ones(images.shape[:3], bool), {"teacher": drawn(2)}, SAMPLES, parts(), 0)
    assert not found.means
    assert "below 0.95" in found.why


def test_one_picture_says_nothing() -> None:
    assert measure(grey, {}, SAMPLES[:1], parts(), 0).why
