"""Champion against challenger: both answer the same tuples now, the same code scores them, and the gate decides.

    tuples (picture, mask, prompt, seed) ─► champion ─┐
                                         └► challenger ─┴► scores per tuple ─► evaluation.gate.decide

A tuple is a held-out picture of the sample catalogue with its caption, or a held-out photograph with one of the
captions that it is asked. Latency is measured in rounds, one side after the other and the first of them by turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deploy.compare import Way, generate, seed_of
from deploy.samples import Sample
from evaluation.features import FeatureExtractor
from evaluation.gate import Decision, Policy, Side, decide
from evaluation.measure import HIGHER_IS_BETTER, PARTIAL, Rank, measure_all
from evaluation.photographs import Request
from infra.files import canonical_json, sha256_bytes
from training.editing import Parts, complete
from training.presets.sections import GateSection

PRIMARY = "adherence"
_BY_CHECK = frozenset({"identity"})
"""Judged by a check of its own, exactly: no margin would do."""


@dataclass(frozen=True)
class Tuples:
    """What is asked, row by row. `colours`: what a photograph's caption names; None for the catalogue."""

    samples: Sequence[Sample]
    captions: Sequence[str]
    colours: Sequence[str | None]
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def digest(self) -> str:
        """SHA-256 of all that makes the answers comparable."""
        rows = zip((sample.id for sample in self.samples), self.captions, self.seeds, strict=True)
        return sha256_bytes(canonical_json([list(row) for row in rows]))


@dataclass(frozen=True)
class Judges:
    """What scores both sides; None where it was not made, or is not believed."""

    extractor: FeatureExtractor
    segmenter: Callable[[np.ndarray], np.ndarray] | None = None
    reward: Rank | None = None
    clip: Callable[[np.ndarray, Sequence[str]], np.ndarray] | None = None


@dataclass(frozen=True)
class Outcome:
    """The decision and what it rests on, by side: `made`, uint8 (N, S, S, 3) before compositing, and `scores` (N,)."""

    decision: Decision
    policy: Policy
    made: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, np.ndarray]]


def tuples_of(
    catalogue: Sequence[Sample], photographs: Sequence[tuple[Sample, Sequence[Request]]], seed: int
) -> Tuples:
    """The catalogue's pictures first, then each photograph with each of its captions under one seed."""
    asked = [(photo, request) for photo, requests in photographs for request in requests]
    samples = [*catalogue, *(photo for photo, _ in asked)]
    return Tuples(
        samples,
        [*(sample.caption for sample in catalogue), *(request.caption for _, request in asked)],
        [*(None for _ in catalogue), *(request.colour for _, request in asked)],
        [seed_of(seed, sample.id) for sample in samples],
    )


def scores_of(tuples: Tuples, made: np.ndarray, judges: Judges) -> dict[str, np.ndarray]:
    """Metric → (N,) of one side's pictures."""
    return measure_all(
        tuples.samples,
        made,
        captions=tuples.captions,
        colours=tuples.colours,
        extractor=judges.extractor,
        segmenter=judges.segmenter,
        reward=judges.reward,
        clip=judges.clip,
    )


def by_picture(tuples: Tuples, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metric → (pictures,): the captions of one photograph are no answers of their own, they share picture and seed."""
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(tuples.samples):
        rows.setdefault(sample.id, []).append(row)
    return {name: np.array([values[some].mean() for some in rows.values()]) for name, values in scores.items()}


def hold(
    tuples: Tuples,
    champion: Parts,
    challenger: Parts,
    way: Way,
    answered: np.ndarray,
    judges: Judges,
    section: GateSection,
    batch_size: int,
    progress: Callable[[int], None],
    untimed: str = "",
) -> Outcome:
    """The champion answers what the challenger has `answered` (N, S, S, 3), and the gate decides.

    `untimed` says why their times are not to be compared; empty: they are.
    """
    made = {
        "champion": generate(champion, way, tuples.samples, tuples.captions, tuples.seeds, batch_size, progress),
        "challenger": answered,
    }
    latency = [np.empty(0)] * 2 if untimed else rounds((champion, challenger), tuples, way, section.rounds)
    scores = {name: scores_of(tuples, made[name], judges) for name in made}
    old, new = (
        Side(tuples.digest, by_picture(tuples, scores[name]), taken)
        for name, taken in zip(("champion", "challenger"), latency, strict=True)
    )
    policy = policy_of(section, old.scores)
    decision = decide(old, new, policy)
    if untimed:
        decision = replace(decision, left_out=f"latency was not compared: {untimed}")
    return Outcome(decision, policy, made, scores)


def policy_of(section: GateSection, measured: Collection[str]) -> Policy:
    """The preset's gate over the metrics that were measured.

    Raises:
        BackdropError: a margin for something that is no metric; it names the nearest one.
    """
    judged = {name: better for name, better in HIGHER_IS_BETTER.items() if name in measured and name not in _BY_CHECK}
    return Policy(
        primary=PRIMARY,
        higher_is_better=judged,
        margin=section.margin,
        # One of a metric that was not measured waits for another evaluation; any other name is a mistake.
        margins={
            name: margin for name, margin in section.margins.items() if name in judged or name not in HIGHER_IS_BETTER
        },
        partial=PARTIAL & judged.keys(),
        latency_gain=section.latency_gain,
        latency_margin=section.latency_margin,
        least=section.least,
        least_rounds=section.rounds,
    )


def rounds(sides: Sequence[Parts], tuples: Tuples, way: Way, count: int) -> list[np.ndarray]:
    """Milliseconds (count,) of each side for one picture, captions embedded before: round by round, by turns first."""
    rows = np.linspace(0, len(tuples) - 1, count).astype(int)
    taken = [np.empty(count) for _ in sides]
    for index in (0, 0, *range(count)):  # the first two warm up, and are measured over
        sample, caption = tuples.samples[rows[index]], tuples.captions[rows[index]]
        for turn in range(len(sides)):
            side = (turn + index) % len(sides)
            sides[side].embed([caption])
            began = time.perf_counter()
            complete(
                sides[side], sample.image[None], sample.product[None], [caption],
                steps=way.steps, guidance=way.guidance, seeds=[tuples.seeds[rows[index]]], student=way.student,
            )  # fmt: skip
            taken[side][index] = 1000 * (time.perf_counter() - began)
    return taken


def waived(decision: Decision, why: str) -> Decision:
    """The decision where the champion has to go anyway (`why`): a challenger that is not worse is enough then."""
    if decision.promote or decision.refused or not all(row.better or row.not_worse for row in decision.evidence):
        return decision
    return replace(decision, promote=True, reason=f"{why}, and the challenger is not worse in anything")
