"""Holes: what they cover, what they keep, and what a latent cell sees of them."""

import numpy as np
import pytest

from training import masks


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (64, 16)])
def test_random_masks_are_binary_and_leave_and_take_something(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([masks.random_mask(rng, *shape) for _ in range(300)])
    assert drawn.shape == (300, *shape)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    share = drawn.mean((1, 2))
    assert 0.01 < share.min() < 0.3
    assert 0.5 < share.max() < 1.0


def test_all_three_kinds_are_drawn_and_a_square_needs_one_side() -> None:
    drawn = [masks.random_mask(np.random.default_rng(seed), 32) for seed in range(100)]
    assert drawn[0].shape == (32, 32)
    corner = np.mean([mask[0, 0] for mask in drawn])  # a frame takes most corners, boxes and strokes few
    assert 0.1 < corner < 0.6
    framed = [mask for mask in drawn if mask[:2].all() and mask[-2:].all()]
    assert framed  # outpainting frames
    assert [mask for mask in drawn if not mask[0].any() and not mask[:, 0].any()]  # boxes and strokes inside


def product(size: int = 48) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - 24) ** 2 + (x - 20) ** 2 < 100


def test_a_product_hole_is_everything_but_the_product() -> None:
    assert np.array_equal(masks.product_hole(product()) == 0, product())


def test_a_jittered_hole_never_cuts_the_product_and_keeps_a_rim_within_reach() -> None:
    rng = np.random.default_rng(0)
    own = product()
    y, x = np.mgrid[:48, :48]
    away = np.hypot(y - 24, x - 20) - 10
    rims = []
    for _ in range(50):
        hole = masks.jittered_hole(rng, own, 5.0)
        assert not hole[own].any()
        assert hole[away > 5.5].all()
        rims.append((hole == 0).sum() - own.sum())
    assert min(rims) < 40  # nearly exact at times
    assert max(rims) > 150  # and well beyond at others
    assert len(set(rims)) > 25


def test_a_jittered_rim_is_uneven() -> None:
    spread = []
    for seed in range(20):
        kept = np.argwhere(masks.jittered_hole(np.random.default_rng(seed), product(), 8.0) == 0)
        sides = 24 - kept[:, 0].min(), kept[:, 0].max() - 24, 20 - kept[:, 1].min(), kept[:, 1].max() - 20
        spread.append(max(sides) - min(sides))
    assert np.mean(spread) > 1


def test_without_reach_or_product_a_jittered_hole_is_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    assert np.array_equal(masks.jittered_hole(rng, product(), 0.0), masks.product_hole(product()))
    nothing = np.zeros((48, 48), bool)
    assert masks.jittered_hole(rng, nothing, 5.0).all()


def test_cells_hold_the_share_to_generate() -> None:
    hole = np.zeros((8, 8), np.float32)
    hole[:4, :2] = 1
    assert masks.to_cells(hole, 4).tolist() == [[0.5, 0.0], [0.0, 0.0]]
