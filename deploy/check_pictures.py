"""For each check that judges answer by answer: the answers that fail it, with what was asked and what is to be seen.

What is judged as a whole (an engine's exactness, a mean against another, the gate) has no failing answers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from deploy.checks import ACCURACIES
from deploy.compare import BASELINES, ENGINE, TEACHER
from deploy.report import PhotographAnswers
from deploy.samples import Sample, true_regions
from deploy.specs import EXPORT_CHECKS
from evaluation.adherence import FLOOR, SHADOW, WALL
from evaluation.metrics.colour import region_colour
from evaluation.metrics.geometry import floor_line, shadow_side
from evaluation.metrics.identity import product_identical
from infra.jobs.program import JobContext
from infra.jobs.spec import EXAMPLES, Check
from infra.tiles import Tile, small_grid
from training.editing import composite

FAILING = "failing"
"""In a check's metadata: how many answers fail it."""

_HEADINGS = {
    "student_within_margin": "left: the teacher's answer · right: the engine's",
    "product_identity": "left: the given picture · right: the engine's answer",
    "photographs": "left: the given photograph · right: the engine's answer",
}
_TRUTH = "left: the true picture · right: the engine's answer"


@dataclass(frozen=True)
class Failure:
    """One answer that fails a check. The smallest `rank` is the worst; `tile` draws it, once it is chosen."""

    id: str
    rank: tuple[float, ...]
    tile: Callable[[], Tile]


def with_pictures(
    job: JobContext[Any], check: Check, found: Mapping[str, Sequence[Failure]], others: Mapping[str, str]
) -> Check:
    """The check with how many answers fail it and a picture of the worst of them.

    One that failed and judges all answers together has `others`, title → key; an exact one's outputs are no pictures.
    """
    if check.name not in found:
        missed = not check.passed and "note" not in check.metadata and check.name not in EXPORT_CHECKS
        return check.model_copy(update={"pictures": dict(others)}) if missed else check
    failures = found[check.name]
    worst = sorted(failures, key=lambda one: one.rank)[:EXAMPLES]
    pictures = {}
    if worst:
        png = small_grid([one.tile() for one in worst], _HEADINGS.get(check.name, _TRUTH), shape=2.0)
        pictures[check.failures_title] = job.put_png(f"checks/{check.name}", png, [one.id for one in worst])
    return check.model_copy(update={"metadata": check.metadata | {FAILING: len(failures)}, "pictures": pictures})


def failures_of(
    samples: Sequence[Sample],
    made: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, Any]],
    answers: Sequence[PhotographAnswers],
) -> dict[str, list[Failure]]:
    """Check → the answers that fail it, for the checks that were measured.

    Args:
        samples: the held-out catalogue.
        made: column → uint8 (N, S, S, 3) before compositing.
        scores: column → what `evaluation.adherence.score` says.
        answers: those to photographs.
    """
    found: dict[str, list[Failure]] = {}
    if samples:
        found = {name: _unmet(name, samples, made[ENGINE], scores[ENGINE]) for name in ACCURACIES}
        found["beats_baselines"] = _beaten(samples, made[ENGINE], scores)
        found["student_within_margin"] = _lost(samples, made, scores)
    if samples or answers:
        found["product_identity"] = _changed(samples, made.get(ENGINE), answers)
    if answers:
        found["photographs"] = _unanswered(answers)
    return found


def _unmet(name: str, samples: Sequence[Sample], made: np.ndarray, scores: Mapping[str, Any]) -> list[Failure]:
    """What the probe of an attribute does not find; the farthest from the truth first."""
    far = scores["floor_line_error" if name == "floor_line" else "masked_l1"]
    return [
        _failure((-far[row], row), samples[row], samples[row].image, made[row], partial(_seen, [name]))
        for row in np.flatnonzero(scores[name] == 0)  # NaN where a picture has no such attribute
    ]


def _beaten(samples: Sequence[Sample], made: np.ndarray, scores: Mapping[str, Mapping[str, Any]]) -> list[Failure]:
    """Where a simple way to fill the background comes nearer to the true picture; the farthest behind it first."""
    names = [name for name in BASELINES if name in scores]
    if not names:
        return []
    ours, errors = scores[ENGINE]["masked_l1"], np.stack([scores[name]["masked_l1"] for name in names])  # (B, N)
    failures = []
    for row in np.flatnonzero(ours >= errors.min(axis=0)):
        best = int(errors[:, row].argmin())
        words = f"error {ours[row]:.3f}, {names[best]} has {errors[best, row]:.3f}"
        rank = (errors[best, row] - ours[row], row)
        failures.append(_failure(rank, samples[row], samples[row].image, made[row], partial(_said, words)))
    return failures


def _lost(
    samples: Sequence[Sample], made: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, Any]]
) -> list[Failure]:
    """What the teacher does as asked and the engine does not; where most is lost first."""
    ours, teacher = scores[ENGINE], scores[TEACHER]
    lost = np.array([(teacher[name] == 1) & (ours[name] == 0) for name in ACCURACIES])  # (4, N)
    failures = []
    for row in np.flatnonzero(lost.any(axis=0)):
        names = [name for name, gone in zip(ACCURACIES, lost[:, row], strict=True) if gone]
        rank = (-len(names), -ours["masked_l1"][row], row)
        failures.append(_failure(rank, samples[row], made[TEACHER][row], made[ENGINE][row], partial(_seen, names)))
    return failures


def _changed(samples: Sequence[Sample], made: np.ndarray | None, answers: Sequence[PhotographAnswers]) -> list[Failure]:
    """Answers of which a pixel of the product is not the given one; those with most such pixels first."""
    catalogue = ((sample, _whole(sample, made[row])) for row, sample in enumerate(samples) if made is not None)
    photographs = ((answer.photo, whole) for answer in answers for whole in answer.composites)
    failures = []
    for place, (sample, whole) in enumerate(chain(catalogue, photographs)):
        if not product_identical(whole, sample.image, sample.product):
            changed = int(((whole != sample.image).any(axis=-1) & sample.product).sum())
            words = f"{changed:,} of the product's {int(sample.product.sum()):,} pixels changed"
            failures.append(Failure(sample.id, (-changed, place), partial(_pair, sample.image, whole, words)))
    return failures


def _unanswered(answers: Sequence[PhotographAnswers]) -> list[Failure]:
    """Photographs with another colour than asked, or the same answer whatever is asked; each photograph in its turn."""
    failures = []
    for place, answer in enumerate(answers):
        shown = zip(answer.requests, answer.composites, answer.score.matched, answer.score.seen, strict=True)
        for turn, (request, whole, matched, seen) in enumerate(shown):
            if matched and answer.score.different:
                continue
            words = f"border: asked {request.colour}, seen {seen or 'none of it'}"
            words += "" if answer.score.different else "; the same for every caption"
            tile = partial(_pair, answer.photo.image, whole, words)
            failures.append(Failure(answer.photo.id, (float(matched), turn, place), tile))
    return failures


def _failure(
    rank: tuple[float, ...],
    sample: Sample,
    left: np.ndarray,
    right: np.ndarray,
    words: Callable[[Sample, np.ndarray], str],
) -> Failure:
    """`left`, `right`: as generated (S, S, 3); shown is what a user sees of them. `words` are of the right one."""
    return Failure(sample.id, rank, lambda: _pair(_whole(sample, left), _whole(sample, right), words(sample, right)))


def _pair(left: np.ndarray, right: np.ndarray, words: str) -> Tile:
    return Tile(np.concatenate([left, right], axis=1), words)


def _whole(sample: Sample, made: np.ndarray) -> np.ndarray:
    return composite(sample.image[None], made[None], sample.product[None])[0]


def _said(words: str, sample: Sample, made: np.ndarray) -> str:
    return words


def _seen(names: Sequence[str], sample: Sample, made: np.ndarray) -> str:
    """What was asked of these attributes, and what their probes find in the generated picture (S, S, 3)."""
    return "; ".join(_probed(name, sample, made) for name in names)


def _probed(name: str, sample: Sample, made: np.ndarray) -> str:
    asked, product, regions = sample.attributes, sample.product, true_regions(sample)
    floor = (regions == FLOOR) | (regions == SHADOW)
    if name == "wall_colour":
        return f"wall: asked {asked['wall']}, seen {region_colour(made, regions == WALL, product) or 'none'}"
    if name == "floor_colour":
        return f"floor: asked {asked['floor']}, seen {region_colour(made, floor, product) or 'none'}"
    if name == "shadow_side":
        return f"shadow: asked {asked['shadow_side']}, seen {shadow_side(made, floor, product) or 'none'}"
    line = floor_line(made, product)
    return f"floor line: asked {asked['floor_line']:.0%} down, seen {'none' if line is None else f'{line:.0%}'}"
