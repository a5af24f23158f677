"""Best of k over parts that paint what their noise says, a ranker that fails in every way, and the watch over it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evaluation.ranking import best_of_k, candidate_seed, choose, watch
from infra.errors import BackdropError
from training.editing import complete

SIZE, COUNT = 16, 3


class Painter:
    """Parts whose pictures have one grey each: what the first noise was."""

    image_size, factor = SIZE, 8

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 4, SIZE // 8, SIZE // 8), np.float32)

    def velocity(self, z: np.ndarray, *rest: Any) -> np.ndarray:
        self.batches.append(len(z))
        return np.zeros_like(z)

    def decode(self, latent: np.ndarray, *rest: Any) -> np.ndarray:
        grey = np.tanh(latent.mean(axis=(1, 2, 3)))
        return np.broadcast_to(grey[:, None, None, None], (len(latent), 3, SIZE, SIZE))

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(captions), 4, 8), np.float16), np.full(len(captions), 2, np.uint8)


IMAGES = np.full((COUNT, SIZE, SIZE, 3), 255, np.uint8)
PRODUCTS = np.zeros((COUNT, SIZE, SIZE), bool)
PRODUCTS[:, 4:8, 4:8] = True
CAPTIONS = ["one", "two", "three"]
HOW: dict[str, Any] = {"steps": 2, "guidance": 2.0, "seeds": [5, 6, 7], "student": True}


def brightness(images: np.ndarray, products: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    assert (images[products] == 255).all()  # a ranker sees composites
    assert list(captions) == [name for name in CAPTIONS for _ in range(len(captions) // COUNT)]
    return images.mean(axis=(1, 2, 3))


def test_the_brightest_of_k_comes_from_one_batch() -> None:
    painter = Painter()
    found = best_of_k(painter, IMAGES, PRODUCTS, CAPTIONS, k=4, ranker=brightness, **HOW)
    assert painter.batches == [12, 12]  # two steps, all candidates in each
    assert found.candidates.shape == (COUNT, 4, SIZE, SIZE, 3)
    levels = found.candidates.mean(axis=(2, 3, 4))
    assert (found.index == levels.argmax(axis=1)).all()
    assert np.array_equal(found.pictures.mean(axis=(1, 2, 3)), levels.max(axis=1))
    assert len(np.unique(levels)) == 12  # every candidate is another one
    assert found.failures == 0
    first = complete(Painter(), IMAGES, PRODUCTS, CAPTIONS, **HOW)
    assert np.array_equal(found.candidates[:, 0], first)
    again = best_of_k(Painter(), IMAGES, PRODUCTS, CAPTIONS, k=2, ranker=brightness, **HOW)
    assert np.array_equal(again.candidates, found.candidates[:, :2])  # candidates do not depend on k
    with pytest.raises(BackdropError, match="best of 0"):
        best_of_k(Painter(), IMAGES, PRODUCTS, CAPTIONS, k=0, ranker=brightness, **HOW)


def test_a_failing_ranker_costs_the_choice_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    def raises(*_: Any) -> np.ndarray:
        raise RuntimeError("no weights")

    def wrong_shape(images: np.ndarray, *_: Any) -> np.ndarray:
        return np.zeros(2)

    def broken_once(images: np.ndarray, *_: Any) -> np.ndarray:
        rewards = images.mean(axis=(1, 2, 3))
        rewards[5] = np.nan  # candidate 1 of request 1
        rewards[8] = np.inf  # candidate 0 of request 2
        return rewards

    first = complete(Painter(), IMAGES, PRODUCTS, CAPTIONS, **HOW)
    for ranker, failures in ((raises, 3), (wrong_shape, 3), (broken_once, 2)):
        with caplog.at_level(logging.WARNING):
            found = best_of_k(Painter(), IMAGES, PRODUCTS, CAPTIONS, k=4, ranker=ranker, **HOW)
        assert found.failures == failures
        assert np.array_equal(found.pictures[-failures:], first[-failures:])
    assert "the ranker failed, candidate 0 is taken: RuntimeError: no weights" in caplog.text
    assert "(2,) rewards for 12 pictures" in caplog.text


def test_candidate_seeds_are_apart_and_the_first_is_the_request_s() -> None:
    assert candidate_seed(7, 0) == 7
    assert len({candidate_seed(seed, j) for seed in range(20) for j in range(8)}) == 160


def test_choosing_takes_the_first_of_equals_and_none_of_a_broken_row() -> None:
    rewards = np.array([[1.0, 3, 3], [-2, -5, -1], [np.nan, 4, 5]])
    assert choose(rewards).tolist() == [1, 2, 0]


def test_the_watch_tells_a_better_choice_from_a_fooled_ranker() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=(200, 8))
    honest = watch(good + 0.3 * rng.normal(size=good.shape), good, higher_is_better=True)
    assert honest.budgets == (1, 2, 4, 8)
    assert list(honest.reward) == sorted(honest.reward)
    assert honest.gain.low > 1
    assert not honest.over_optimised
    fooled = watch(-good, good, higher_is_better=True)
    assert list(fooled.reward) == sorted(fooled.reward)  # the reward alone looks as well
    assert fooled.over_optimised
    assert not watch(-good, good, higher_is_better=False).over_optimised
    blind = watch(rng.normal(size=good.shape), good, higher_is_better=True)
    assert not blind.over_optimised
    assert blind.gain.low < 0 < blind.gain.high
    assert watch(good[:, :3], good[:, :3], higher_is_better=True).budgets == (1, 2, 3)
    assert honest.as_dict()["independent@8"] == pytest.approx(honest.independent[-1])
    with pytest.raises(ValueError, match="do not pair"):
        watch(good, good[:, :4], higher_is_better=True)
