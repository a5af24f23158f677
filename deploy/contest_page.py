"""The gate's page from an outcome: which cases are shown, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.contest import Outcome, Tuples
from deploy.samples import Sample
from evaluation.gate import LATENCY
from evaluation.report.contest import Case, Contest
from evaluation.report.figures import cut_out, picture
from training.editing import composite


def build(tuples: Tuples, outcome: Outcome, facts: Sequence[tuple[str, str]], count: int) -> tuple[Contest, list[str]]:
    """The page's data, with `count` regressions and half as many others, and the ids of the pictures that it shows."""
    falls = _falls(outcome)
    order = [int(row) for row in np.argsort(-falls.max(axis=0), kind="stable")] if falls.size else []
    worst = [row for row in order if falls[:, row].max() > 0][:count]
    rest = sorted(set(range(len(tuples))) - set(worst))
    spread = [rest[int(place)] for place in np.linspace(0, len(rest) - 1, min(count // 2, len(rest))).round()]
    decision = outcome.decision
    contest = Contest(
        title="Backdrop: champion and challenger",
        promote=decision.promote,
        refused=decision.refused,
        reason=decision.reason,
        facts=[
            *facts,
            ("Answers of each", str(len(tuples))),
            ("Evaluation set", tuples.digest[:16]),
            *([("Left out", decision.left_out)] if decision.left_out else []),
        ],
        evidence=decision.evidence,
        worst=[_case(tuples, outcome, row, falls) for row in worst],
        others=[_case(tuples, outcome, row, falls) for row in spread],
    )
    return contest, [tuples.samples[row].id for row in (*worst, *spread)]


def _names(outcome: Outcome) -> list[str]:
    return [row.metric for row in outcome.decision.evidence if row.metric != LATENCY]


def _falls(outcome: Outcome) -> np.ndarray:
    """By how many margins the challenger is worse, (metrics, N); 0 where a metric does not apply."""
    margins = {row.metric: row.margin for row in outcome.decision.evidence}
    falls = []
    for name in _names(outcome):
        sign = 1.0 if outcome.policy.higher_is_better[name] else -1.0
        worse = sign * (outcome.scores["champion"][name] - outcome.scores["challenger"][name])
        # A champion without any spread leaves no margin: its largest fall is the unit then.
        unit = margins[name] or np.nanmax(np.abs(worse)) or 1.0
        falls.append(np.nan_to_num(worse / unit))
    return np.stack(falls) if falls else np.empty((0, len(outcome.made["champion"])))


def _case(tuples: Tuples, outcome: Outcome, row: int, falls: np.ndarray) -> Case:
    sample, names = tuples.samples[row], _names(outcome)
    metric = int(falls[:, row].argmax()) if len(falls) else 0
    known = [name for name in names if np.isfinite(outcome.scores["champion"][name][row])]
    return Case(
        caption=tuples.captions[row],
        pictures=[
            ("product", picture(cut_out(sample.image, sample.product))),
            *((name, picture(_whole(sample, made[row]))) for name, made in outcome.made.items()),
            ("photograph", picture(sample.image)),
        ],
        scores=[
            (name, float(outcome.scores["champion"][name][row]), float(outcome.scores["challenger"][name][row]))
            for name in known
        ],
        metric=names[metric] if names else "",
        fall=float(falls[metric, row]) if len(falls) else 0.0,
    )


def _whole(sample: Sample, generated: np.ndarray) -> np.ndarray:
    return composite(sample.image[None], generated[None], sample.product[None])[0]
