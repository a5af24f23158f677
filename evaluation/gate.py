"""Champion or challenger: a pure function from paired scores to a decision and its evidence.

    promote = (primary surely better, or latency surely better)          superiority, Holm over the two
              and nothing else worse by more than its margin             non-inferiority, each at its own level

"Surely" is a paired bootstrap: both sides answered the same (prompt, image, mask, seed) tuples, so what is judged is
the difference per tuple. No correction is needed over the non-inferiority tests, for all must hold (Berger 1982, the
intersection-union test). A point estimate alone would promote half of all identical challengers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from evaluation.bootstrap import Resampled, resample
from infra.errors import BackdropError, nearest

LATENCY = "latency"
Scores = Mapping[str, np.ndarray]
Unit = Literal["sd", "metric"]


@dataclass(frozen=True)
class Margin:
    """How much worse is still not worse: in standard deviations of the champion's scores, or in the metric's unit."""

    value: float
    unit: Unit = "sd"


@dataclass(frozen=True)
class Side:
    """One model's answers. Both sides are scored now, by the same code.

    `tuples`: sha256 of the evaluation set's ids; `scores`: metric → float (N,) in the order of those ids; `latency_ms`:
    (R,), round i of both sides measured one after the other (ABAB), or empty where it was not measured.
    """

    tuples: str
    scores: Scores
    latency_ms: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Policy:
    """What a challenger has to show.

    Every metric of `higher_is_better` is judged, with `margin` where `margins` has none. `partial` names the metrics
    that some tuples do not have (NaN on both sides). `latency_gain`: the share of the champion's latency that has to be
    saved to count as better; `latency_margin`: the share that may be lost. `family` and `noninferiority`: one-sided
    levels. `least`: tuples; a partial metric needs a quarter of it, and two at least.
    """

    primary: str
    higher_is_better: Mapping[str, bool]
    margins: Mapping[str, Margin | float] = field(default_factory=dict)
    margin: Margin | float = 0.2
    partial: frozenset[str] = frozenset()
    latency_gain: float = 0.05
    latency_margin: float = 0.2
    family: float = 0.025
    noninferiority: float = 0.05
    least: int = 256
    least_rounds: int = 10

    def __post_init__(self) -> None:
        for name in (self.primary, *self.margins, *self.partial):
            if name not in self.higher_is_better:
                raise BackdropError(
                    f"the gate's policy names a metric {name!r} that it does not judge."
                    f"{nearest(name, self.higher_is_better)}",
                    f"it judges {', '.join(sorted(self.higher_is_better))}",
                )

    def margin_of(self, metric: str) -> Margin:
        """A plain number is in standard deviations."""
        given = self.margins.get(metric, self.margin)
        return given if isinstance(given, Margin) else Margin(float(given))


@dataclass(frozen=True)
class Evidence:
    """One metric's line. `difference` is the challenger's gain (positive is better, whatever the metric's direction; of
    latency the share saved), with its 95 % interval; `margin` in the same unit; `p` of each test, None where not made.
    """

    metric: str
    n: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    margin: float
    p_better: float | None
    better: bool
    p_worse: float
    not_worse: bool


@dataclass(frozen=True)
class Decision:
    """`refused`: nothing could be judged; the champion stays then too. `left_out`: what was not compared, and why."""

    promote: bool
    reason: str
    evidence: tuple[Evidence, ...] = ()
    refused: bool = False
    left_out: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a ledger's evidence and a page's table."""
        return {
            "promote": self.promote,
            "refused": self.refused,
            "reason": self.reason,
            **({"left_out": self.left_out} if self.left_out else {}),
            "evidence": [asdict(row) for row in self.evidence],
        }


@dataclass(frozen=True)
class _Judged:
    name: str
    champion: float
    challenger: float
    margin: float
    count: int
    gain: Resampled


def decide(champion: Side, challenger: Side, policy: Policy) -> Decision:
    """Whether the challenger becomes champion, and why. What cannot be judged is refused in one message."""
    wrong = _unfit(champion, challenger, policy)
    if wrong:
        return Decision(False, f"refused: {wrong}; the champion stays", refused=True)
    judged = _judge(champion, challenger, policy)
    p_better = {policy.primary: judged[policy.primary].gain.p_at_most(0.0)}
    if LATENCY in judged:
        # Better by at least the gain: a time of at most (1 − gain) of the champion's.
        p_better[LATENCY] = judged[LATENCY].gain.p_at_most(-math.log1p(-policy.latency_gain))
    better = _holm(p_better, policy.family)
    rows = tuple(_row(one, p_better.get(one.name), one.name in better, policy) for one in judged.values())
    worse = [row.metric for row in rows if not (row.better or row.not_worse)]
    if not better:
        asked = " nor ".join(p_better)
        what = f"neither {asked} is" if len(p_better) > 1 else f"{asked} is not"
        return Decision(False, f"{what} surely better; the champion stays", rows)
    won = ", ".join(row.metric for row in rows if row.better)
    if worse:
        return Decision(False, f"{won} is better, but {', '.join(worse)} may be worse; the champion stays", rows)
    return Decision(True, f"{won} is better, and nothing is worse", rows)


def _unfit(champion: Side, challenger: Side, policy: Policy) -> str:
    """Why the two sides cannot be judged; empty when they can."""
    if champion.tuples != challenger.tuples:
        return (
            f"the evaluation set changed between the two sides ({champion.tuples[:12]} and {challenger.tuples[:12]}): "
            "score the champion again"
        )
    for side, name in ((champion, "champion"), (challenger, "challenger")):
        missing = sorted(set(policy.higher_is_better) - set(side.scores))
        if missing:
            return f"the {name} has no scores of {', '.join(missing)}"
        for metric in policy.higher_is_better:
            if np.asarray(side.scores[metric]).ndim != 1:
                return f"the {name}'s scores of {metric} are of shape {np.shape(side.scores[metric])}, not (N,)"
        latency = np.asarray(side.latency_ms)
        if not (np.isfinite(latency).all() and (latency > 0).all()):
            return f"the {name}'s latency holds a value that is no time"
    sizes = {len(side.scores[metric]) for side in (champion, challenger) for metric in policy.higher_is_better}
    if len(sizes) > 1:
        return f"the scores do not pair: {', '.join(map(str, sorted(sizes)))} tuples"
    for metric in policy.higher_is_better:
        if why := _undefined(metric, champion.scores[metric], challenger.scores[metric], policy):
            return why
    if (count := sizes.pop()) < policy.least:
        return f"{count} tuples are too few to decide, it takes {policy.least}"
    rounds = len(champion.latency_ms), len(challenger.latency_ms)
    if rounds[0] != rounds[1]:
        return f"the rounds of latency do not pair: {rounds[0]} and {rounds[1]}"
    if 0 < rounds[0] < policy.least_rounds:
        return f"{rounds[0]} rounds of latency are too few to decide, it takes {policy.least_rounds}"
    return ""


def _undefined(metric: str, champion: np.ndarray, challenger: np.ndarray, policy: Policy) -> str:
    bad = ~np.isfinite(champion) | ~np.isfinite(challenger)
    if not bad.any():
        return ""
    on_both = np.isnan(champion) & np.isnan(challenger)
    if metric not in policy.partial or not np.array_equal(bad, on_both):
        sides = {"champion": champion, "challenger": challenger}
        counts = [f"{(~np.isfinite(side)).sum()} of the {name}'s" for name, side in sides.items()]
        return f"{metric} is not a number in {' and '.join(counts)} {len(bad)} scores"
    count, least = int((~bad).sum()), max(2, policy.least // 4)  # one value has no interval
    return f"{metric} is defined on {count} tuples, it takes {least}" if count < least else ""


def _judge(champion: Side, challenger: Side, policy: Policy) -> dict[str, _Judged]:
    """The metrics in the policy's order, latency last where it was measured. Metrics on the same tuples share their
    resamples, in one product of matrices."""
    by_tuples: dict[bytes, list[str]] = {}
    for metric in policy.higher_is_better:
        known = ~np.isnan(champion.scores[metric])
        by_tuples.setdefault(known.tobytes(), []).append(metric)
    judged: dict[str, _Judged] = {}
    for metrics in by_tuples.values():
        known = ~np.isnan(champion.scores[metrics[0]])
        old, new = (
            np.stack([np.asarray(side.scores[m], np.float64)[known] for m in metrics], axis=1)
            for side in (champion, challenger)
        )  # (n, M) each
        sign = np.array([1.0 if policy.higher_is_better[metric] else -1.0 for metric in metrics])
        for index, gain in enumerate(resample((new - old) * sign)):
            margin = policy.margin_of(metrics[index])
            unit = float(old[:, index].std(ddof=1)) if margin.unit == "sd" else 1.0
            means = float(old[:, index].mean()), float(new[:, index].mean())
            judged[metrics[index]] = _Judged(metrics[index], *means, margin.value * unit, len(old), gain)
    judged = {metric: judged[metric] for metric in policy.higher_is_better}
    if len(champion.latency_ms):
        old_log, new_log = np.log(champion.latency_ms), np.log(challenger.latency_ms)
        gain = resample((old_log - new_log)[:, None])[0]
        # The geometric mean of the rounds' ratios: one slow round weighs no more than another.
        means = float(np.exp(old_log.mean())), float(np.exp(new_log.mean()))
        judged[LATENCY] = _Judged(LATENCY, *means, math.log1p(policy.latency_margin), len(old_log), gain)
    return judged


def _holm(p_values: Mapping[str, float], level: float) -> set[str]:
    """Names whose hypotheses fall (Holm 1979): the smallest p against level / k, the next against level / (k - 1) …"""
    fallen: set[str] = set()
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        if p > level / (len(p_values) - rank):
            break
        fallen.add(name)
    return fallen


def _row(one: _Judged, p_better: float | None, better: bool, policy: Policy) -> Evidence:
    interval = one.gain.interval()
    # Where no tuple differs there is nothing to be unsure of, also with a margin of 0 (a champion without any spread).
    same = one.gain.mean == 0 and interval.low == interval.high
    p_worse = 0.0 if same else one.gain.p_at_most(-one.margin)
    difference, low, high, margin = interval.mean, interval.low, interval.high, one.margin
    if one.name == LATENCY:  # from logarithms of the ratio to shares of the champion's time
        difference, low, high = (-math.expm1(-value) for value in (difference, low, high))
        margin = policy.latency_margin
    return Evidence(
        metric=one.name, n=one.count, champion=one.champion, challenger=one.challenger,
        difference=difference, low=low, high=high, margin=margin,
        p_better=p_better, better=better, p_worse=p_worse, not_worse=p_worse <= policy.noninferiority,
    )  # fmt: skip
