"""The evaluation's second half: the engine against the one that serves now, and the page of the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from deploy import compare, contest, contest_page
from deploy.engines.open import open_engine
from deploy.engines.protocol import GraphEngine
from deploy.specs import EvaluateSpec
from evaluation.bootstrap import mean_interval
from evaluation.gate import Decision
from evaluation.guards import guards
from evaluation.report.contest import render
from infra.bundles import open_bundle
from infra.jobs.program import JobContext
from infra.jobs.spec import Check
from training.editing import composite

LEAST_GUARDED = 32
"""Pictures below which a distance between sets says nothing."""


@dataclass(frozen=True)
class Against:
    """What came of the contest: no decision without a champion. `scores`: the engine's own, metric → (N,).

    `page` shows the images `shown`; it is stored last, for only a finished job tells which images its pages show.
    """

    scores: Mapping[str, np.ndarray]
    decision: Decision | None = None
    page: str = ""
    shown: frozenset[str] = frozenset()


def against_champion(
    spec: EvaluateSpec,
    job: JobContext[EvaluateSpec],
    engine: GraphEngine,
    tuples: contest.Tuples,
    way: compare.Way,
    made: np.ndarray | None,
    judges: contest.Judges,
    counter: Callable[[int], None],
) -> Against:
    """The engine's own scores, and the gate where there is a champion that can be opened.

    `made`: what the engine has answered to the tuples, (N, S, S, 3) before compositing; None where there are none.
    """
    if made is None:
        refused = Decision(False, "refused: there is nothing to ask; the champion stays", refused=True)
        return Against({}, refused if spec.champion else None)
    if spec.champion is None:
        return Against(contest.scores_of(tuples, made, judges))
    # Where it cannot be opened that ends the job: a refusal would be kept, and hold after it was put right.
    backend = open_bundle(job.store, spec.champion).meta["backend"]
    champion = open_engine(job.store, spec.champion, spec.trust, backend, text_encoder=spec.text_encoder)
    section = spec.config
    outcome = contest.hold(tuples, champion, engine, way, made, judges, section.gate, section.batch_size, counter)
    champion.close()
    if spec.champion_tainted:
        outcome = replace(outcome, decision=contest.waived(outcome.decision, spec.champion_tainted))
    facts = [("Champion", spec.champion[:16]), ("Challenger", spec.engine[:16]), ("Features", section.extractor)]
    facts += guarded(tuples, outcome, judges)
    page, shown = contest_page.build(tuples, outcome, facts, section.gate.shown)
    return Against(outcome.scores["challenger"], outcome.decision, render(page), frozenset(shown))


def guarded(tuples: contest.Tuples, outcome: contest.Outcome, judges: contest.Judges) -> list[tuple[str, str]]:
    """KID and CMMD of both sides to the true pictures of the catalogue: shown, never a gate at so few pictures."""
    rows = [row for row, sample in enumerate(tuples.samples) if sample.attributes.get("regions")]
    if len(rows) < LEAST_GUARDED:
        return []
    images = np.stack([tuples.samples[row].image for row in rows])
    products = np.stack([tuples.samples[row].product for row in rows])
    old, new = (composite(images, outcome.made[side][rows], products) for side in ("champion", "challenger"))
    found = guards(judges.extractor, old, new, images, [tuples.samples[row].id for row in rows])
    return [
        (name.upper(), f"{one.champion.value:.3g} → {one.challenger.value:.3g} (p {one.guard.p:.2g}, n {len(rows)})")
        for name, one in found.items()
    ]


def judged(scores: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Metric → {"mean", "low", "high", "n"}: with the 95 % interval, where two values or more are known."""
    found = {}
    for name, values in scores.items():
        known = values[np.isfinite(values)]
        if len(known) >= 2:
            interval = mean_interval(known)
            found[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": len(known)}
    return found


def gate_check(decision: Decision | None) -> Check:
    """That the champion stays is an outcome, not a failure: it stops nothing."""
    if decision is None:
        return Check(name="gate", passed=True, severity="warn", metadata={"note": "there is no champion"})
    return Check(name="gate", passed=decision.promote, severity="warn", metadata=decision.as_dict())
