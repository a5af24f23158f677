"""The palette's names must be far enough apart, and CIELAB must be CIELAB."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.palette import NAMES, PALETTE, nearest_colour, nearest_colours, palette_lab, rgb_to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # Reference values of the sRGB primaries under D65, e.g. B. Lindbloom's calculator.
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_lab_reference_values(rgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    assert np.allclose(rgb_to_lab(np.array(rgb, np.uint8)), lab, atol=0.05)


def test_lab_refuses_floats() -> None:
    with pytest.raises(ValueError, match="uint8"):
        rgb_to_lab(np.zeros((4, 4, 3), np.float32))


def test_twelve_names_well_apart() -> None:
    lab = palette_lab()
    distance = np.sqrt(((lab[:, None] - lab[None]) ** 2).sum(-1))
    np.fill_diagonal(distance, np.inf)
    assert len(NAMES) == 12
    assert distance.min() > 30


def test_nearest_is_the_name_itself_even_a_little_off() -> None:
    rng = np.random.default_rng(0)
    for k, (name, rgb) in enumerate(PALETTE.items()):
        near = np.clip(np.array(rgb) + rng.integers(-10, 11, (50, 3)), 0, 255).astype(np.uint8)
        assert (nearest_colours(rgb_to_lab(near)) == k).all()
        assert nearest_colour(palette_lab()[k]) == name
