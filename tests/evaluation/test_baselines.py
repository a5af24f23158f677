"""The baselines do what their names say, and cannot do more."""

from __future__ import annotations

import numpy as np
import pytest

from assets.sample_catalogue.renderer import render
from evaluation.baselines import inpaint_telea, mean_background, nearest_captions


def test_mean_background_leaves_products_out() -> None:
    product = np.zeros((4, 4), bool)
    product[0, 0] = True
    dark, bright = np.full((4, 4, 3), 10, np.uint8), np.full((4, 4, 3), 30, np.uint8)
    dark[0, 0] = 255
    mean = mean_background([(dark, product), (bright, product)])
    assert (mean == 20).all()  # the covered corner takes the mean of the rest


def test_mean_background_needs_a_background() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_background([])
    with pytest.raises(ValueError, match="at least one"):
        mean_background([(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))])


def test_nearest_caption_is_by_angle() -> None:
    known = np.array([[1.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    assert nearest_captions(np.array([[9.0, 0.5], [0.1, 0.3], [2.0, 2.2]]), known).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="embeddings"):
        nearest_captions(known, np.zeros((0, 2)))


def test_telea_sees_only_the_product() -> None:
    scenes = [render(0, k, 64) for k in range(2)]
    images, products = np.stack([s.image for s in scenes]), np.stack([s.product_mask for s in scenes])
    filled = inpaint_telea(images, products)
    other = images.copy()
    other[~products] = 77
    assert np.array_equal(filled, inpaint_telea(other, products))
    assert np.array_equal(filled[products], images[products])
