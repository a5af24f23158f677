"""Object expansion on drawn masks, the paired interval against theory, and the tiny segmenter on drawn products."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.bootstrap import mean_interval
from evaluation.expansion import Comparison, compare_stages, expansion, intersection_over_union
from evaluation.product_segmenter import train_segmenter


def square(size: int = 20, top: int = 5, side: int = 10) -> np.ndarray:
    mask = np.zeros((1, size, size), bool)
    mask[0, top : top + side, 5:15] = True
    return mask


def test_only_what_lies_beyond_the_given_product_counts() -> None:
    given = square()
    assert expansion(given, given) == 0
    assert expansion(square(side=5), given) == 0  # smaller is no expansion
    assert expansion(np.zeros_like(given), given) == 0
    assert expansion(square(side=12), given) == pytest.approx(0.2)
    assert expansion(square(top=15, side=5), given) == pytest.approx(0.5)  # apart from it
    assert expansion(np.ones_like(given), given) == pytest.approx(3.0)


def test_expansion_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="picture 1 of 2 has no product"):
        expansion(np.concatenate([square()] * 2), np.concatenate([square(), square(side=0)]))
    with pytest.raises(ValueError, match="shapes differ"):
        expansion(square(), square(21))


def test_stages_pass_when_the_second_has_half_and_the_interval_says_so() -> None:
    rng = np.random.default_rng(0)
    first = rng.gamma(2.0, 0.1, 256)
    halved = compare_stages(first, 0.4 * first)
    assert halved.passed
    assert halved.share == pytest.approx(0.4)
    assert halved.pictures == 256
    assert not compare_stages(first, 0.6 * first).passed  # surely less, and yet too much
    few = compare_stages(np.array([0.0, 0.0, 1.0]), np.array([0.1, 0.1, 0.0]))
    assert few.share < 0.5
    assert not few.passed  # less by chance
    never = compare_stages(np.zeros(4), np.array([0.0, 0.1, 0.0, 0.0]))
    assert never.share is None
    assert not never.passed
    assert isinstance(halved, Comparison)


def test_pairing_sees_what_two_means_hide() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 10, 64)
    difference = rng.normal(-0.5, 0.5, 64)
    assert mean_interval((common + difference) - common).high < 0
    assert mean_interval(common + difference).low < 0 < mean_interval(common + difference).high


def test_the_interval_is_theory_s_for_normal_values_and_leans_with_skewed_ones() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, 400)
    found = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)
    skewed = mean_interval(np.random.default_rng(3).exponential(1.0, 60))
    assert skewed.high - skewed.mean > skewed.mean - skewed.low
    assert mean_interval(values) == found  # the same every time


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        found = mean_interval(rng.exponential(1.0, 64), resamples=1000)
        covered += found.low <= 1.0 <= found.high
    assert 0.90 <= covered / 200 <= 0.985


def test_an_interval_needs_values() -> None:
    assert mean_interval(np.full(5, 0.25)).low == mean_interval(np.full(5, 0.25)).high == 0.25
    for bad in (np.array([1.0]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="at least 2 finite"):
            mean_interval(bad)


def drawn(count: int, seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Coloured discs in front of a wall and a floor of other colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    images, masks = [], []
    for _ in range(count):
        wall, floor, disc = rng.integers(0, 256, (3, 3))
        line, radius = rng.integers(20, 44), rng.integers(8, 16)
        cx, cy = rng.integers(20, 44, 2)
        image = np.where((y < line)[..., None], wall, floor)
        mask = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        images.append(np.where(mask[..., None], disc, image).astype(np.uint8))
        masks.append(mask)
    return np.stack(images), np.stack(masks)


def test_the_segmenter_learns_and_is_the_same_every_time() -> None:
    images, masks = drawn(64, 0)
    others, truth = drawn(16, 1)
    before = train_segmenter(images, masks, steps=1, seed=0, batch_size=8)
    trained = train_segmenter(images, masks, steps=20, seed=0, batch_size=8)
    after = intersection_over_union(trained(others), truth).mean()
    assert after > max(0.5, intersection_over_union(before(others), truth).mean() + 0.2)
    again = train_segmenter(images, masks, steps=20, seed=0, batch_size=8)
    assert np.array_equal(again(others), trained(others))
    large = others.repeat(2, 1).repeat(2, 2)  # pictures of any size are answered at their own
    assert intersection_over_union(trained(large), truth.repeat(2, 1).repeat(2, 2)).mean() > after - 0.05


def test_the_segmenter_wants_pairs() -> None:
    images, masks = drawn(2, 0)
    with pytest.raises(ValueError, match="do not pair"):
        train_segmenter(images, masks[:1], steps=1, seed=0)


def test_two_empty_masks_agree() -> None:
    nothing = np.zeros((1, 4, 4), bool)
    assert intersection_over_union(nothing, nothing) == 1
    assert intersection_over_union(nothing, ~nothing) == 0
