"""Drift against earlier deliveries: no alarm where only chance is at work, an alarm where the pictures changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2

from assets.curation.drift import (
    CHECKS,
    EDGES,
    LABELS,
    RATE_LIMIT,
    SHIFT_LIMIT,
    Comparison,
    Moments,
    bin_names,
    checks,
    chi_square,
    compare,
    compare_counts,
    compare_embeddings,
    merge_rare,
    psi,
)
from infra.catalog.reporting import Profile

SHAPES = {
    "even": np.ones(8) / 8,
    "one usual size": np.array([0.9, 0.05, 0.03, 0.01, 0.005, 0.003, 0.001, 0.001]),
    "one size, and a few of everything": np.r_[1 - 1e-3, np.ones(12) * 1e-3 / 12],
    "a rate": np.array([0.05, 0.95]),
    "a rare event": np.array([0.005, 0.995]),
}
SIZES = [(5, 5), (20, 20), (20, 1_000_000), (50, 200), (1000, 20), (300, 300), (10_000, 10_000)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_two_samples_of_one_population_do_not_alarm(shape: str, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    trials = 1500
    now, before = (rng.multinomial(size, SHAPES[shape], trials) for size in sizes)
    drifts = [compare_counts("check", "name", a, b, RATE_LIMIT) for a, b in zip(now, before, strict=True)]
    # One in a thousand is what the correction promises; the stricter limit of the two, so that both hold.
    assert sum(one.drifted for one in drifts) <= 6
    assert sum(one.excess > 0 for one in drifts) <= 0.006 * trials


def test_without_the_correction_small_deliveries_would_alarm() -> None:
    rng = np.random.default_rng(7)
    pairs = [rng.multinomial(20, SHAPES["even"], 2) for _ in range(500)]
    assert np.mean([psi(a, b) > SHIFT_LIMIT for a, b in pairs]) > 0.5


@pytest.mark.parametrize("size", [40, 300, 100_000])
def test_other_pictures_alarm(size: int) -> None:
    before = 10_000 * SHAPES["even"]
    now = size * np.r_[np.zeros(4), np.ones(4) / 4]
    assert compare_counts("check", "name", now, before, SHIFT_LIMIT).drifted
    # Nothing like it was ever seen: half of the delivery is of a size that did not occur.
    assert compare_counts("check", "name", [size / 2, size / 2], [10_000, 0], SHIFT_LIMIT).drifted


def test_the_drop_rates_that_alarm() -> None:
    def drifted(before: float, now: float, size: int) -> bool:
        a, b = ((size * rate, size * (1 - rate)) for rate in (now, before))
        return compare_counts("check", "name", a, b, RATE_LIMIT).drifted

    assert drifted(0.05, 0.15, 100_000)
    assert not drifted(0.05, 0.13, 100_000)
    assert not drifted(0.05, 0.15, 40)  # six pictures where two were expected
    assert drifted(0.05, 0.5, 40)


def test_psi_is_the_formula_and_zero_for_equals() -> None:
    now, before = np.array([3e6, 1e6]), np.array([1e6, 1e6])
    assert psi(now, before) == pytest.approx(0.25 * math.log(1.5) - 0.25 * math.log(0.5), rel=1e-4)
    assert psi(now, before) == pytest.approx(psi(before, now), rel=1e-4)
    assert psi(now, now) == 0.0
    assert psi([0, 0], before) == 0.0


def test_rare_bins_become_one_and_nothing_is_lost() -> None:
    now, before = merge_rare([100, 2, 1, 0, 0], [1000, 0, 30, 20, 0])
    assert (now.sum(), before.sum()) == (103, 1050)
    assert len(now) == 1
    assert merge_rare([0, 0], [5, 5])[0].sum() == 0
    assert not compare_counts("check", "name", [0, 0], [5, 5], SHIFT_LIMIT).drifted


@pytest.mark.parametrize("freedom", [1, 2, 5, 12])
def test_the_quantile_is_that_of_chi_square(freedom: int) -> None:
    assert chi_square(freedom) == pytest.approx(chi2.ppf(0.999, freedom), rel=0.04)
    assert chi_square(freedom) >= chi2.ppf(0.999, freedom)
    assert chi_square(0) == 0


@pytest.mark.parametrize("spectrum", [np.ones(64), np.r_[1.0, np.zeros(63)], 0.7 ** np.arange(64)])
def test_embeddings_of_one_population_do_not_alarm(spectrum: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        rows = rng.normal(size=(230, 64)) * np.sqrt(spectrum)
        found.append(compare_embeddings(Moments.of(rows[:30]), Moments.of(rows[30:])))
    assert sum(one.excess > 0 for one in found) <= 4
    assert not any(one.drifted for one in found)
    moved = Moments.of(rows[:30] + np.sqrt(spectrum))
    assert compare_embeddings(moved, Moments.of(rows[30:])).drifted
    assert not compare_embeddings(Moments.of(rows[:1]), Moments.of(rows)).drifted
    parts = Moments.of(rows[:100]) + Moments.of(rows[100:])
    assert parts.squares == pytest.approx(Moments.of(rows).squares)


def profile(sizes: dict[int, int], dropped: int, **more: int) -> Profile:
    total = sum(sizes.values())
    return Profile(sizes, {6: total}, {0: 10, 3: total - 10}, {"blur": dropped, **more}, total)


def test_a_delivery_is_held_against_the_sum_of_the_earlier_ones() -> None:
    before = [profile({3: 500, 4: 500}, 50), profile({4: 1000}, 50)]
    found = {one.name: one for one in compare(profile({5: 1000}, 300, new=900, decode=5), before)}
    assert set(found) == {*LABELS.values(), "dropped by blur", "dropped by decode"}
    assert {name for name, one in found.items() if one.drifted} == {"resolution", "dropped by blur"}
    assert found["resolution"].before[3:6] == (0.25, 0.75, 0.0)
    results = checks(Comparison(("a", "b"), tuple(found.values())))
    assert [one.name for one in results] == list(CHECKS)
    assert [one.passed for one in results] == [False, True, True, False, True]
    assert {one.severity for one in results} == {"warn"}
    assert results[3].metadata["rates"] == "dropped by blur: 5.0% before, 30.0% now"
    assert results[4].metadata["note"] == "no embeddings to compare"


def test_the_first_delivery_passes_and_says_why() -> None:
    results = checks(Comparison((), ()))
    assert [one.name for one in results] == list(CHECKS)
    assert all(one.passed and "no delivery came before" in one.metadata["compared_with"] for one in results)


def test_usual_sizes_and_shapes_lie_inside_their_bins() -> None:
    for size in (64, 128, 256, 512, 1024, 2048):
        assert all(abs(math.log2(size / edge)) > 0.4 for edge in EDGES["resolution"])
    for ratio in (1 / 2, 9 / 16, 2 / 3, 3 / 4, 4 / 5, 1, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2):
        assert all(abs(ratio / edge - 1) > 0.02 for edge in EDGES["aspect"]), ratio
    for name, edges in EDGES.items():
        assert len(bin_names(name)) == len(edges) + 1
        assert list(edges) == sorted(edges)
