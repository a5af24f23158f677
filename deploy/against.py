"""The evaluation's second half: the engine against the one that serves now, and the page of the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deploy import compare, contest, contest_page
from deploy.engines.onnxruntime import BACKEND
from deploy.engines.open import open_engine
from deploy.engines.protocol import GraphEngine
from deploy.specs import EvaluateSpec
from evaluation.bootstrap import mean_interval
from evaluation.features import FeatureExtractor, key_of
from evaluation.gate import Decision
from evaluation.guards import Guarded, distances, guards
from evaluation.measured import Measured, reference_of
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

    `apart`: the engine's distances to the true pictures; `guarded`: the same beside the champion's, where there is one.
    `page` shows the images `shown`; it is stored last, for only a finished job tells which images its pages show.
    """

    scores: Mapping[str, np.ndarray]
    decision: Decision | None = None
    apart: Mapping[str, Measured] = field(default_factory=dict)
    guarded: Mapping[str, Guarded] = field(default_factory=dict)
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
        return Against(contest.scores_of(tuples, made, judges), apart=_apart(tuples, made, judges.extractor))
    # Where it cannot be opened that ends the job: a refusal would be kept, and hold after it was put right.
    backend = open_bundle(job.store, spec.champion).meta.get("backend", BACKEND)
    champion = open_engine(job.store, spec.champion, spec.trust, backend, text_encoder=spec.text_encoder)
    section = spec.config
    untimed = fallen_back(champion, engine)
    outcome = contest.hold(
        tuples, champion, engine, way, made, judges, section.gate, section.batch_size, counter, untimed
    )
    champion.close()
    if spec.champion_tainted:
        outcome = replace(outcome, decision=contest.waived(outcome.decision, spec.champion_tainted))
    guarded = _guarded(tuples, outcome, judges.extractor)
    facts = [("Champion", spec.champion[:16]), ("Challenger", spec.engine[:16]), *_facts(judges.extractor, guarded)]
    page, shown = contest_page.build(tuples, outcome, facts, section.gate.shown)
    return Against(
        outcome.scores["challenger"],
        outcome.decision,
        {name: one.challenger for name, one in guarded.items()},
        guarded,
        render(page),
        frozenset(shown),
    )


def fallen_back(champion: GraphEngine, challenger: GraphEngine) -> str:
    """Why their times say nothing: one of them does not run on what it was built for. Empty where both do."""
    sides = {"champion": champion, "challenger": challenger}
    return "; ".join(
        f"the {name} fell back to {side.backend} ({side.fallback})" for name, side in sides.items() if side.fallback
    )


def _true_rows(tuples: contest.Tuples) -> list[int]:
    return [row for row, sample in enumerate(tuples.samples) if sample.attributes.get("regions")]


def _beside_truth(tuples: contest.Tuples, *sides: np.ndarray) -> tuple[list[np.ndarray], list[str]] | None:
    """The composites of each side, then the true pictures, and their ids; None where these are too few."""
    rows = _true_rows(tuples)
    if len(rows) < LEAST_GUARDED:
        return None
    images = np.stack([tuples.samples[row].image for row in rows])
    products = np.stack([tuples.samples[row].product for row in rows])
    pictures = [*(composite(images, made[rows], products) for made in sides), images]
    return pictures, [tuples.samples[row].id for row in rows]


def _apart(tuples: contest.Tuples, made: np.ndarray, extractor: FeatureExtractor) -> dict[str, Measured]:
    """KID and CMMD to the true pictures of the catalogue: shown, never a gate at so few pictures."""
    known = _beside_truth(tuples, made)
    if known is None:
        return {}
    (ours, truth), ids = known
    return distances(extractor, ours, truth, ids)


def _guarded(tuples: contest.Tuples, outcome: contest.Outcome, extractor: FeatureExtractor) -> dict[str, Guarded]:
    """The same of both sides."""
    known = _beside_truth(tuples, outcome.made["champion"], outcome.made["challenger"])
    if known is None:
        return {}
    (old, new, truth), ids = known
    return guards(extractor, old, new, truth, ids)


def _facts(extractor: FeatureExtractor, guarded: Mapping[str, Guarded]) -> list[tuple[str, str]]:
    """For the gate's page: what the features are of, and both sides' distances."""
    facts = [("Features", f"{extractor.id}, weights {extractor.weights[:16]}, {extractor.preprocessing}")]
    for name, one in guarded.items():
        old, new = one.champion, one.challenger
        known = f"p {one.guard.p:.2g}{', surely worse' if one.guard.worse else ''}"
        beside = f"{known}, n {new.n}, reference {new.reference[:16]}"
        facts.append((name.upper(), f"{old.value:.3g} → {new.value:.3g} ({beside})"))
    return facts


def judged(
    tuples: contest.Tuples, scores: Mapping[str, np.ndarray], extractor: FeatureExtractor
) -> dict[str, dict[str, Any]]:
    """Metric → {"mean", "low", "high", "n"} over the pictures, with the 95 % interval, where two or more are known.

    Those of the extractor carry it, and "reference": the hash of the true pictures, or of what was asked.
    """
    references = {
        "feature_distance": reference_of(tuples.samples[row].id for row in _true_rows(tuples)),
        "clip_score": tuples.digest,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, values in contest.by_picture(tuples, scores).items():
        known = values[np.isfinite(values)]
        if len(known) >= 2:
            interval = mean_interval(known)
            found[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": len(known)}
            if name in references:
                found[name] |= {**key_of(extractor), "reference": references[name]}
    return found


def gate_check(decision: Decision | None) -> Check:
    """That the champion stays is an outcome, not a failure: it stops nothing."""
    if decision is None:
        return Check(name="gate", passed=True, severity="warn", metadata={"note": "there is no champion"})
    return Check(name="gate", passed=decision.promote, severity="warn", metadata=decision.as_dict())
