"""KID and CMMD against what is known of them: no bias, and a null that is right about how often it cries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from evaluation.features import open_extractor
from evaluation.guards import distances, guards
from evaluation.measured import comparable
from evaluation.metrics.distance import KERNELS, SURE, gaussian, guard, mmd, polynomial
from evaluation.metrics.text import clip_score
from infra.errors import BackdropError


def drawn(count: int, shift: float = 0.0, seed: int | list[int] = 0, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, width))


kid, cmmd = partial(mmd, kernel=polynomial), partial(mmd, kernel=gaussian)


def test_kid_is_torchmetrics_s_and_neither_distance_has_a_bias() -> None:
    x, y = drawn(40), drawn(40, 0.5, 1)
    theirs = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    assert kid(x, y) == pytest.approx(theirs, rel=1e-9)
    for distance in (kid, cmmd):
        same = [distance(drawn(64, seed=2 * k), drawn(64, seed=2 * k + 1)) for k in range(100)]
        error = np.std(same) / 10
        assert abs(np.mean(same)) < 3 * error  # unbiased: about 0 at 64 pictures
        assert distance(x, y) > 0


def test_the_null_cries_as_rarely_as_it_says() -> None:
    """Two models that are equally good are called worse in about 2.5 % of all trials, a worse one nearly always."""
    cries, found = dict.fromkeys(KERNELS, 0), dict.fromkeys(KERNELS, 0)
    for trial in range(80):
        reference = drawn(96, seed=[trial, 0])
        common = drawn(64, seed=[trial, 1])
        one, other = (0.8 * common + 0.6 * drawn(64, seed=[trial, side]) for side in (2, 3))
        for name, kernel in KERNELS.items():
            cries[name] += guard(one, other, reference, kernel, rounds=200, seed=trial).worse
            found[name] += guard(one, other + 0.5, reference, kernel, rounds=200, seed=trial).worse
    assert max(cries.values()) <= 7  # of 80 at 2.5 %: more has a chance below 1 in 1,000
    assert min(found.values()) >= 76


def test_a_guard_says_worse_of_what_is_farther_away_alone() -> None:
    reference, good = drawn(128), drawn(64, seed=1)
    worse = guard(good, good + 0.5, reference, gaussian)
    better = guard(good + 0.5, good, reference, gaussian)
    same = guard(good, good, reference, polynomial)
    assert (worse.worse, better.worse, same.worse) == (True, False, False)
    assert better.p > 1 - SURE
    assert worse.challenger == pytest.approx(cmmd(good + 0.5, reference))
    assert worse.champion == pytest.approx(better.challenger)


def test_numbers_of_the_report_carry_their_key_and_guard_the_challenger() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (60, 24, 24, 3), dtype=np.uint8)
    good, grey = rng.integers(0, 256, (40, 24, 24, 3), dtype=np.uint8), np.full((40, 24, 24, 3), 128, np.uint8)
    identities = [str(index) for index in range(60)]
    extractor = open_extractor("randconv:0")
    found = guards(extractor, good, grey, reference, identities)
    alone = distances(extractor, grey, reference, identities)
    for name, both in found.items():
        assert both.guard.worse
        assert both.challenger == alone[name]
        assert both.champion.value < both.challenger.value
        comparable(both.champion, alone[name])
        assert both.as_dict()["worse"] is True
    other = distances(open_extractor("randconv:1"), grey, reference, identities)
    fewer = distances(extractor, grey[:20], reference, identities)
    elsewhere = distances(extractor, grey, reference, identities[1:])
    for number in (other["kid"], fewer["kid"], elsewhere["kid"], alone["cmmd"]):
        with pytest.raises(BackdropError, match="cannot be compared"):
            comparable(number, alone["kid"])
        with pytest.raises(BackdropError, match="cannot be compared"):
            replace(found["kid"], champion=number)


def test_distances_refuse_what_they_cannot_measure() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kid(drawn(1), drawn(5))
    with pytest.raises(ValueError, match="finite"):
        cmmd(drawn(5) * np.nan, drawn(5))
    with pytest.raises(ValueError, match="widths"):
        kid(drawn(5), drawn(5, width=4))
    with pytest.raises(ValueError, match="do not pair"):
        guard(drawn(5), drawn(4), drawn(5), gaussian)


def test_clip_score_is_the_scaled_cosine_and_never_below_nought() -> None:
    pictures = np.array([[1.0, 0], [1, 0], [1, 0]])
    captions = np.array([[0.6, 0.8], [-1, 0], [1, 0]])
    assert clip_score(pictures, captions) == pytest.approx([1.5, 0, 2.5])
    with pytest.raises(ValueError, match="do not pair"):
        clip_score(pictures, captions[:2])
