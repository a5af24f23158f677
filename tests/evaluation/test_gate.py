"""The gate: what it promotes, what it keeps back, and what it refuses to judge."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation.bootstrap import resample
from evaluation.gate import Decision, Margin, Policy, Side, decide
from infra.errors import BackdropError
from tests.benchmarks.gate import METRICS, POLICY, PRIMARY, promoted, sides


def both(seed: int = 0, **gains: float) -> tuple[Side, Side]:
    return sides(np.random.default_rng(seed), {name.replace("_", " "): gain for name, gain in gains.items()})


def row(decision: Decision, metric: str):  # type: ignore[no-untyped-def]
    return next(one for one in decision.evidence if one.metric == metric)


def test_simulated_challengers() -> None:
    """The promises at 150 trials, so with a bar that chance passes once in some thousand suites."""
    assert promoted(150, 5, {}) <= 0.06
    assert promoted(150, 6, {METRICS[3]: -0.3, PRIMARY: 0.5}) <= 0.02
    assert promoted(150, 7, {PRIMARY: -0.3}) == 0
    assert promoted(150, 8, {PRIMARY: 0.5}) >= 0.9


def test_a_better_challenger_is_promoted_with_its_evidence() -> None:
    champion, challenger = both(metric_0=0.5)
    decision = decide(champion, challenger, POLICY)
    assert decision.promote
    assert decision.reason == "metric 0 is better, and nothing is worse"
    assert [one.metric for one in decision.evidence] == [*METRICS, "latency"]
    primary = row(decision, PRIMARY)
    assert primary.better
    assert primary.low < 0.5 < primary.high
    assert primary.n == 256
    assert primary.margin == pytest.approx(0.2 * np.std(champion.scores[PRIMARY], ddof=1))
    assert row(decision, "metric 1").p_better is None
    assert json.loads(json.dumps(decision.as_dict()))["evidence"][0]["metric"] == PRIMARY


def test_a_challenger_that_paid_with_another_metric_is_kept_back_by_its_name() -> None:
    decision = decide(*both(metric_0=0.5, metric_3=-0.6), POLICY)
    assert not decision.promote
    assert decision.reason == "metric 0 is better, but metric 3 may be worse; the champion stays"


def faster(side: Side, share: float) -> Side:
    return replace(side, latency_ms=side.latency_ms * (1 - share))


def test_latency_alone_promotes_when_a_twentieth_is_surely_saved() -> None:
    champion, same = both()
    same = replace(same, scores=champion.scores)
    fast = decide(champion, faster(same, 0.12), POLICY)
    assert fast.promote
    assert fast.reason == "latency is better, and nothing is worse"
    assert 0.05 < row(fast, "latency").low < 0.12 < row(fast, "latency").high
    assert not decide(champion, faster(same, 0.05), POLICY).promote
    worse = decide(champion, faster(both(metric_0=-0.4)[1], 0.5), POLICY)
    assert "metric 0 may be worse" in worse.reason


def test_a_better_challenger_that_is_much_slower_stays_out() -> None:
    champion, challenger = both(metric_0=0.5)
    decision = decide(champion, faster(challenger, -0.5), POLICY)
    assert not decision.promote
    assert "latency may be worse" in decision.reason
    unmeasured = [replace(side, latency_ms=np.empty(0)) for side in (champion, challenger)]
    assert decide(*unmeasured, POLICY).promote


def test_holm_asks_half_the_level_of_the_first_of_two() -> None:
    """A p between half the level and the level wins alone (one hypothesis), and not beside a lost latency."""
    champion, challenger = both()
    gain = 0.1
    shifted = replace(challenger, scores={**champion.scores, PRIMARY: challenger.scores[PRIMARY]})
    difference = challenger.scores[PRIMARY] - champion.scores[PRIMARY]
    difference = difference - difference.mean() + gain * difference.std()
    shifted = replace(shifted, scores={**champion.scores, PRIMARY: champion.scores[PRIMARY] + difference})
    p = row(decide(champion, shifted, POLICY), PRIMARY).p_better
    between = replace(POLICY, family=1.5 * p)
    assert not decide(champion, shifted, between).promote
    alone = [replace(side, latency_ms=np.empty(0)) for side in (champion, shifted)]
    assert decide(*alone, between).promote
    # With latency fallen first, the primary is asked the whole level.
    assert row(decide(champion, faster(replace(shifted, latency_ms=champion.latency_ms), 0.5), between), PRIMARY).better


def refused(champion: Side, challenger: Side, policy: Policy = POLICY) -> str:
    decision = decide(champion, challenger, policy)
    assert decision.refused
    assert not decision.promote
    assert decision.reason.endswith("the champion stays")
    return decision.reason


def test_what_cannot_be_judged_is_refused() -> None:
    champion, challenger = both(metric_0=0.5)
    assert "evaluation set changed" in refused(champion, replace(challenger, tuples="b" * 64))
    scores = {name: values.copy() for name, values in challenger.scores.items()}
    scores["metric 2"][7] = np.nan
    message = refused(champion, replace(challenger, scores=scores))
    assert "metric 2 is not a number in 0 of the champion's and 1 of the challenger's 256 scores" in message
    scores["metric 2"][7] = np.inf
    assert "metric 2 is not a number" in refused(champion, replace(challenger, scores=scores))
    fewer = [replace(side, scores={k: v[:255] for k, v in side.scores.items()}) for side in (champion, challenger)]
    assert "255 tuples are too few to decide, it takes 256" in refused(*fewer)
    assert "do not pair: 255, 256 tuples" in refused(champion, fewer[1])
    assert "no scores of metric 4" in refused(
        champion, replace(challenger, scores={k: v for k, v in challenger.scores.items() if k != "metric 4"})
    )
    short = [replace(side, latency_ms=side.latency_ms[:4]) for side in (champion, challenger)]
    assert "4 rounds of latency are too few" in refused(*short)
    assert "rounds of latency do not pair: 30 and 4" in refused(champion, short[1])
    stopped = replace(challenger, latency_ms=np.where(np.arange(30) == 3, 0.0, challenger.latency_ms))
    assert "the challenger's latency holds a value that is no time" in refused(champion, stopped)
    assert "of shape (256, 1)" in refused(
        champion, replace(challenger, scores={k: v[:, None] for k, v in challenger.scores.items()})
    )


def test_a_metric_that_some_tuples_do_not_have_is_judged_on_the_others() -> None:
    champion, challenger = both(metric_0=0.5)

    def without(side: Side, metric: str, rows: slice) -> Side:
        values = side.scores[metric].copy()
        values[rows] = np.nan
        return replace(side, scores={**side.scores, metric: values})

    gaps = [without(side, "metric 1", slice(0, 100)) for side in (champion, challenger)]
    assert "metric 1 is not a number in 100" in refused(*gaps)
    partial = replace(POLICY, partial=frozenset({"metric 1"}))
    decision = decide(*gaps, partial)
    assert decision.promote
    assert row(decision, "metric 1").n == 156
    assert row(decision, "metric 2").n == 256
    assert "metric 1 is not a number" in refused(gaps[0], without(challenger, "metric 1", slice(0, 101)), partial)
    most = [without(side, "metric 1", slice(0, 200)) for side in (champion, challenger)]
    assert "metric 1 is defined on 56 tuples, it takes 64" in refused(*most, partial)
    one = [without(side, "metric 1", slice(1, 256)) for side in (champion, challenger)]
    assert "metric 1 is defined on 1 tuples, it takes 2" in refused(*one, replace(partial, least=4))


def test_margins_are_in_standard_deviations_or_in_the_metrics_unit() -> None:
    champion, challenger = both(metric_0=0.5, metric_2=-0.15)
    wide = replace(POLICY, margins={"metric 2": Margin(0.4, "metric")})
    assert decide(champion, challenger, wide).promote
    assert row(decide(champion, challenger, wide), "metric 2").margin == 0.4
    assert not decide(champion, challenger, replace(POLICY, margins={"metric 2": 0.1})).promote


def test_a_metric_that_never_differs_is_not_worse() -> None:
    """Identity is 1.0 on every tuple of both: no spread, so no margin, and nothing to be unsure of."""
    champion, challenger = both(metric_0=0.5)
    ones = [replace(side, scores={**side.scores, "metric 2": np.ones(256)}) for side in (champion, challenger)]
    assert decide(*ones, POLICY).promote
    broken = replace(ones[1], scores={**ones[1].scores, "metric 2": np.arange(256) > 0})
    assert "metric 2 may be worse" in decide(ones[0], broken, POLICY).reason


def test_a_policy_that_names_an_unknown_metric_is_a_mistake() -> None:
    with pytest.raises(BackdropError, match="Did you mean 'adherence'"):
        Policy("adherance", {"adherence": True})
    with pytest.raises(BackdropError, match="does not judge"):
        Policy("a", {"a": True}, margins={"b": 0.1})


def test_p_values_are_where_the_interval_ends() -> None:
    values = np.random.default_rng(1).exponential(1.0, (300, 1))
    found = resample(values)[0]
    ends = found.interval(0.95)
    assert found.p_at_most(ends.low) == pytest.approx(0.025, abs=0.001)
    assert found.p_at_most(ends.high) == pytest.approx(0.975, abs=0.001)
    assert found.p_at_most(values.max()) > 0.999


def test_many_rows_are_resampled_in_chunks() -> None:
    values = np.random.default_rng(2).standard_normal((20_000, 2))
    first, second = resample(values, resamples=500)
    assert first.means.shape == (500,)
    assert first.means.std() == pytest.approx(1 / np.sqrt(20_000), rel=0.15)
    assert abs(np.corrcoef(first.means, second.means)[0, 1]) < 0.2
