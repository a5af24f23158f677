"""Whether a delivery looks like the ones before it: sizes, shapes, captions, and what the filters drop.

Distributions are compared on fixed bins by the population stability index, PSI = Σ (aᵢ - bᵢ) ln(aᵢ / bᵢ). Two samples
of one population differ as well: then PSI is about (1/n + 1/m) χ² with bins - 1 degrees of freedom (Yurdakul & Naranjo,
"Statistical properties of the population stability index", J. Risk Model Validation 14(4), 2020). So what chance
explains is taken off, and the rest is held against a limit of effect size, which does not shrink as deliveries grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.jobs.spec import Check

if TYPE_CHECKING:
    from infra.catalog import Catalog
    from infra.catalog.reporting import Profile

CHECKS = ("resolution_drift", "aspect_drift", "caption_length_drift", "drop_rate_drift", "embedding_drift")
"""Names of the checks, in order; all warn, none stops a delivery: a new kind of picture may be what was wanted."""

EARLIER = 5
"""Deliveries compared with: enough that one odd delivery is not the norm, few enough that the norm is recent."""

SHIFT_LIMIT = 0.25
"""Over this PSI a population counts as shifted (Siddiqi, "Credit Risk Scorecards", Wiley 2006: 0.1 a small change,
0.25 a real one)."""

RATE_LIMIT = 0.1
"""The same for one rate. Siddiqi's lower limit, because a rate has two bins where he had ten: a drop rate that goes
from 5 % to 14 % reaches 0.1, and one that goes to 21 % reaches 0.25, which is late."""

EMBEDDING_LIMIT = 0.25
"""Squared distance of the mean embeddings over the total variance. Halves that lie this far apart have Cohen's f² =
0.0625, f = 0.25: what he calls a medium effect (Cohen, "Statistical Power Analysis", 2nd ed. 1988, §8.2)."""

_ODDS = 3.0902  # the standard normal's quantile at 0.999: one false alarm in a thousand comparisons
_EXPECTED = 5.0
_ALWAYS = ("read", "decode", "exact duplicate", "near duplicate")  # these run also where they have nothing to say
_LEAST = 20  # pictures below which no rate is spoken of

Counts = Sequence[float] | np.ndarray

EDGES: dict[str, tuple[float, ...]] = {
    # Octaves around the powers of two: usual sizes (256, 512, 1024 …) lie in the middle of a bin, not on an edge.
    "resolution": tuple(2 ** (k + 0.5) for k in range(5, 12)),
    # Between the usual ratios 1:2, 9:16, 2:3, 3:4, 4:5, 1:1 and their inverses, for the same reason.
    "aspect": (0.45, 0.53, 0.61, 0.71, 0.775, 0.894, 1.118, 1.29, 1.41, 1.63, 1.88, 2.22),
    # No caption, then doubling: a word, a phrase, a sentence, a paragraph.
    "caption": (1, 16, 32, 64, 128, 256, 512),
}
LABELS = {"resolution": "resolution", "aspect": "aspect ratio", "caption": "caption length"}
EMBEDDING = "embedding"


@dataclass(frozen=True)
class Drift:
    """One comparison. `shift`: the PSI; `noise`: what chance explains of it; drifted when the rest is over `limit`."""

    check: str
    name: str
    shift: float
    noise: float
    limit: float
    now: tuple[float, ...]  # share of each bin, this delivery
    before: tuple[float, ...]  # and of the earlier ones

    @property
    def excess(self) -> float:
        return max(0.0, self.shift - self.noise)

    @property
    def drifted(self) -> bool:
        return self.excess > self.limit


@dataclass(frozen=True)
class Moments:
    """A set of embeddings in sums, which can be added up in a stream: how many, Σx (D,) and Σ|x|²."""

    count: int
    total: np.ndarray
    squares: float

    @classmethod
    def of(cls, embeddings: np.ndarray) -> Moments:
        """Of embeddings (N, D)."""
        rows = embeddings.astype(np.float64)
        return cls(len(rows), rows.sum(axis=0), float((rows**2).sum()))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True)
class Comparison:
    """A delivery against those before it; no drifts where there were none."""

    earlier: tuple[str, ...]
    drifts: tuple[Drift, ...]


def psi(now: Counts, before: Counts) -> float:
    """Population stability index of two vectors of counts over the same bins.

    No bin may be empty, so half a count per bin is added to each side, spread as both together are: that pulls the two
    towards each other, where the usual even spread would pull a small sample away from a large one.
    """
    a, b = np.asarray(now, np.float64), np.asarray(before, np.float64)
    if not a.sum() or not b.sum():
        return 0.0
    both = _together(a, b)
    a, b, both = a[both > 0], b[both > 0], both[both > 0]
    a, b = ((one + 0.5 * len(both) * both) / (one.sum() + 0.5 * len(both)) for one in (a, b))
    return float(((a - b) * np.log(a / b)).sum())


def chance(now: Counts, before: Counts) -> float:
    """The PSI that two samples of these sizes from one population stay under, 999 times of 1000."""
    n, m = float(sum(now)), float(sum(before))
    if not n or not m:
        return math.inf
    used = sum(1 for a, b in zip(now, before, strict=True) if a or b)
    return (1 / n + 1 / m) * chi_square(used - 1)


def merge_rare(now: Counts, before: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Both counts with the rare bins made one, for χ² needs about five expected in each (Cochran, Biometrics 1954).

    Expected in the smaller sample, if both came evenly from the two. What is still too rare joins the smallest bin.
    """
    a, b = np.asarray(now, np.float64), np.asarray(before, np.float64)
    if not a.sum() or not b.sum():
        return a, b
    expected = _together(a, b) * min(a.sum(), b.sum())
    order = np.argsort(-expected, kind="stable")
    frequent, rare = order[expected[order] >= _EXPECTED], order[expected[order] < _EXPECTED]
    groups = [[int(place)] for place in frequent]
    if groups and expected[rare].sum() < _EXPECTED:
        groups[-1] += [int(place) for place in rare]
    else:
        groups.append([int(place) for place in rare])
    return np.array([a[g].sum() for g in groups]), np.array([b[g].sum() for g in groups])


def _together(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean of two distributions, each of the same weight whatever its size."""
    return np.asarray((a / a.sum() + b / b.sum()) / 2)


def chi_square(freedom: int) -> float:
    """The 0.999 quantile of χ² (Wilson & Hilferty 1931; within 4 % from one degree of freedom on)."""
    if freedom < 1:
        return 0.0
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + _ODDS * math.sqrt(spread)) ** 3)


def compare_counts(check: str, name: str, now: Counts, before: Counts, limit: float) -> Drift:
    """The drift between two vectors of counts over the same bins."""
    shares = [tuple(float(one) / (sum(counts) or 1) for one in counts) for counts in (now, before)]
    merged = merge_rare(now, before)
    return Drift(check, name, psi(*merged), chance(*merged), limit, shares[0], shares[1])


def compare_embeddings(now: Moments, before: Moments) -> Drift:
    """How far the mean embedding moved, |μ₁ - μ₂|² over the total variance.

    Chance moves it by (1/n + 1/m) Σ λᵢ χ²₁ / Σ λᵢ. Of all spectra λ with one sum, one single direction has the longest
    tail (Székely & Bakirov 2003), so the quantile of χ²₁ holds for every spectrum.
    """
    if now.count < 2 or before.count < 2:
        return Drift("embedding_drift", EMBEDDING, 0.0, math.inf, EMBEDDING_LIMIT, (), ())
    distance = float(((now.total / now.count - before.total / before.count) ** 2).sum())
    # Within the deliveries: a shift between them must not make itself look small.
    within = sum(one.squares - float((one.total**2).sum()) / one.count for one in (now, before))
    variance = max(within / (now.count + before.count - 2), 1e-12)
    noise = (1 / now.count + 1 / before.count) * chi_square(1)
    return Drift("embedding_drift", EMBEDDING, distance / variance, noise, EMBEDDING_LIMIT, (), ())


def compare(now: Profile, before: Sequence[Profile]) -> list[Drift]:
    """Every comparison of a delivery with the sum of those before it; a filter's, of those in which it ran."""
    drifts = []
    for name, edges in EDGES.items():
        counts = [_counts(getattr(one, name), len(edges) + 1) for one in (now, *before)]
        check = {"caption": "caption_length_drift"}.get(name, f"{name}_drift")
        drifts.append(compare_counts(check, LABELS[name], counts[0], _sum(counts[1:]), SHIFT_LIMIT))
    for name in sorted({*_ALWAYS, *now.drops}):
        past = [one for one in before if name in one.drops or name in _ALWAYS]
        rates = [(float(d), float(n - d)) for d, n in (_dropped(name, [now]), _dropped(name, past))]
        if min(map(sum, rates)) >= _LEAST and (rates[0][0] or rates[1][0]):
            drifts.append(compare_counts("drop_rate_drift", f"dropped by {name}", rates[0], rates[1], RATE_LIMIT))
    return drifts


def _dropped(name: str, profiles: Sequence[Profile]) -> tuple[int, int]:
    """(dropped by the filter, sightings): of all that arrived, for some filters only speak of what they drop."""
    return sum(one.drops.get(name, 0) for one in profiles), sum(one.sightings for one in profiles)


def _counts(bins: Mapping[int, int], size: int) -> list[float]:
    return [float(bins.get(place, 0)) for place in range(size)]


def _sum(vectors: Sequence[Sequence[float]]) -> list[float]:
    return [float(sum(one)) for one in zip(*vectors, strict=True)]


def compare_delivery(catalog: Catalog, delivery: str, embedder: str = "") -> Comparison:
    """The delivery against the last EARLIER ones before it, rendered ones among themselves.

    `embedder`: whose embeddings are compared, of the deliveries that it has embedded.
    """
    earlier = catalog.earlier_deliveries(delivery, EARLIER)
    if not earlier:
        return Comparison((), ())
    profiles = catalog.profiles([delivery, *earlier], EDGES)
    drifts = compare(profiles[delivery], [profiles[name] for name in earlier])
    if embedder:
        means = catalog.embedding_means(embedder, [delivery, *earlier])
        now, before = _moments(means, [delivery]), _moments(means, earlier)
        drifts += [compare_embeddings(now, before)] if now is not None and before is not None else []
    return Comparison(tuple(earlier), tuple(drifts))


def _moments(means: Mapping[str, tuple[int, np.ndarray]], deliveries: Sequence[str]) -> Moments | None:
    """The sums over these deliveries; of embeddings of length 1, so that Σ|x|² is their count."""
    parts = [Moments(n, n * mean.astype(np.float64), n) for n, mean in (means[d] for d in deliveries if d in means)]
    return reduce(add, parts) if parts else None


def checks(found: Comparison) -> list[Check]:
    """One Check per name in CHECKS, in that order; what cannot be compared passes and says so."""
    return [_check(name, [one for one in found.drifts if one.check == name], found.earlier) for name in CHECKS]


def _check(name: str, drifts: Sequence[Drift], earlier: Sequence[str]) -> Check:
    metadata: dict[str, Any] = {"compared_with": ", ".join(earlier) or "nothing: no delivery came before"}
    if earlier and not drifts:
        metadata["note"] = "no embeddings to compare" if name == "embedding_drift" else "too few pictures"
    if drifts:
        worst = max(drifts, key=lambda one: (one.drifted, one.excess / one.limit, one.shift))
        metadata |= {
            "shift": round(worst.shift, 4),
            "chance_explains": round(worst.noise, 4) if math.isfinite(worst.noise) else "all",
            "limit": worst.limit,
        }
        if name == "drop_rate_drift":
            shown = [one for one in drifts if one.drifted] or [worst]
            metadata["rates"] = "; ".join(f"{d.name}: {d.before[0]:.1%} before, {d.now[0]:.1%} now" for d in shown)
    return Check(name=name, passed=not any(one.drifted for one in drifts), severity="warn", metadata=metadata)


def bin_names(name: str) -> list[str]:
    """What the bins of "resolution", "aspect" or "caption" are called, in order."""
    if name == "aspect":
        return ["< 1:2", "1:2", "9:16", "2:3", "3:4", "4:5", "1:1", "5:4", "4:3", "3:2", "16:9", "2:1", "> 2:1"]
    shown = [f"{edge:.0f}" for edge in EDGES[name]]
    middle = [f"{low}–{high}" for low, high in pairwise(shown)]
    return ["none" if name == "caption" else f"< {shown[0]}", *middle, f"≥ {shown[-1]}"]
