"""Subject similarity on drawn products: the subject itself is most like it, then its colour or its outline alone."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.similarity import subject_similarity

SIZE = 48


def product(rgb: tuple[int, int, int], kind: str, top: int = 10, side: int = 20) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    if kind == "disc":
        mask = (x - 24) ** 2 + (y - top - side // 2) ** 2 < (side // 2) ** 2
    else:
        mask = (np.abs(x - 24) < side // 8 + 1) & (y >= top) & (y < top + side)
    image = np.full((SIZE, SIZE, 3), 90, np.uint8)
    image[mask] = rgb
    return image[None], mask[None]


def test_colour_and_outline_each_count_for_half() -> None:
    red, blue = (200, 30, 30), (30, 40, 200)
    subject = product(red, "disc")
    same = subject_similarity(*subject, *subject)[0]
    moved = subject_similarity(*product(red, "disc", top=20, side=26), *subject)[0]
    colour = subject_similarity(*product(red, "stick"), *subject)[0]
    outline = subject_similarity(*product(blue, "disc"), *subject)[0]
    neither = subject_similarity(*product(blue, "stick"), *subject)[0]
    assert same == pytest.approx(1.0)
    assert moved > 0.9  # neither place nor size matters
    assert outline == pytest.approx(0.5, abs=0.02)
    assert 0.5 < colour < 0.8
    assert neither < min(colour, outline) - 0.2


def test_a_slightly_other_shade_is_still_alike() -> None:
    subject = product((200, 30, 30), "disc")
    assert subject_similarity(*product((190, 38, 34), "disc"), *subject)[0] > 0.8


def test_no_product_is_like_nothing_and_a_subject_must_be_there() -> None:
    image, mask = product((200, 30, 30), "disc")
    assert subject_similarity(image, np.zeros_like(mask), image, mask)[0] == 0
    with pytest.raises(ValueError, match="without a subject"):
        subject_similarity(image, mask, image, np.zeros_like(mask))
