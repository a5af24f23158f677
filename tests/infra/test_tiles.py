"""Grids of pictures: they show a picture as a whole, and small ones stay small whatever they show."""

from __future__ import annotations

import numpy as np
import pytest

from infra.images import decode
from infra.tiles import SMALL_BYTES, Tile, grid, small_grid


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_is_seen_as_a_whole() -> None:
    wide = np.full((10, 40, 3), (200, 0, 0), np.uint8)
    shown = decode(grid([Tile(wide, "")], box=(80, 80)))
    rows, columns = np.nonzero((shown == (200, 0, 0)).all(axis=-1))
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (80, 20)


def test_words_take_only_the_lines_that_they_need() -> None:
    picture = noise(20, 20)
    short, long = (decode(grid([Tile(picture, words)])) for words in ("a word", "many words " * 40))
    assert short.shape[1] == long.shape[1]
    assert long.shape[0] - short.shape[0] == 5 * 11
    narrow, headed = (decode(grid([Tile(picture, "")], heading=words)) for words in ("", "a line above it all " * 3))
    assert headed.shape[1] > narrow.shape[1]


@pytest.mark.parametrize("shape", [1.0, 2.0])
def test_a_small_grid_is_small_even_of_noise(shape: float) -> None:
    tiles = [Tile(noise(300, 600), "the word that stands below it " * 9) for _ in range(8)]
    made = small_grid(tiles, "what is seen", shape)
    assert len(made) <= SMALL_BYTES
    assert made == small_grid(tiles, "what is seen", shape)
    assert decode(small_grid([Tile(None, "gone")])).std() > 0
