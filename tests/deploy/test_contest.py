"""Champion against challenger on the small world: same tuples, same judges, and a page that shows who lost what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from deploy import contest, contest_page
from deploy.against import against_champion, gate_check
from deploy.compare import Way, generate
from deploy.samples import Sample, to_sample
from evaluation.features import open_extractor
from evaluation.photographs import requests_for
from evaluation.report.contest import intervals, render
from tests.deploy.conftest import SIZE, row
from training.editing import to_float
from training.presets.sections import GateSection

SECTION = GateSection(least=8, rounds=10, shown=4, latency_margin=50.0)  # other tests may run beside this one
WAY = Way(1, 1.0, student=True)
JUDGES = contest.Judges(open_extractor("randconv:0"))


class Painter:
    """A model whose latents are pixels: it answers with the catalogue's true picture, changed by `change`."""

    image_size, factor = SIZE, 1

    def __init__(self, samples: Sequence[Sample], change: float) -> None:
        self.known = {sample.caption: to_float(sample.image).transpose(2, 0, 1) for sample in samples}
        self.change, self.asked = change, [sample.caption for sample in samples]

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array([self.asked.index(caption) for caption in captions], np.float16)
        return rows[:, None, None], np.ones(len(captions), np.uint8)

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32)

    def decode(self, latent: np.ndarray, *_: object) -> np.ndarray:
        return latent

    def velocity(self, z: np.ndarray, *given: np.ndarray) -> np.ndarray:
        text = given[3]
        truth = np.stack([self.known[self.asked[int(row)]] for row in text[:, 0, 0]])
        return np.asarray(z - np.clip(truth + self.change, -1, 1), np.float32)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [to_sample(row(k, catalogue=True, holdout=True), SIZE) for k in range(12)]


def held(samples: list[Sample], champion: float, challenger: float) -> tuple[contest.Tuples, contest.Outcome]:
    tuples = contest.tuples_of(samples, [], seed=1)
    old, new = Painter(samples, champion), Painter(samples, challenger)
    made = generate(new, WAY, tuples.samples, tuples.captions, tuples.seeds, 5, lambda done: None)
    return tuples, contest.hold(tuples, old, new, WAY, made, JUDGES, SECTION, 5, lambda done: None)


def test_the_one_that_does_as_captioned_wins_and_never_the_other_way_round(samples: list[Sample]) -> None:
    _, won = held(samples, champion=0.9, challenger=0.0)
    assert won.decision.promote, won.decision
    assert won.scores["challenger"]["adherence"].mean() > won.scores["champion"]["adherence"].mean()
    tuples, lost = held(samples, champion=0.0, challenger=0.9)
    assert not lost.decision.promote
    assert not lost.decision.refused
    page, shown = contest_page.build(tuples, lost, [("Champion", "one")], 4)
    assert len(page.worst) == 4
    assert set(shown) <= {sample.id for sample in samples}
    assert page.worst[0].fall >= page.worst[-1].fall > 0
    html = render(page)
    assert "The champion stays" in html
    assert html.count("data:image/") == 4 * (4 + len(page.others))
    assert "http" not in html.replace("http://www.w3.org", "")


def test_an_equal_challenger_stays_one_unless_the_champion_has_to_go(samples: list[Sample]) -> None:
    _, same = held(samples, champion=0.0, challenger=0.0)
    quiet = replace(same.decision, evidence=tuple(row for row in same.decision.evidence if row.metric != "latency"))
    assert all(row.not_worse for row in quiet.evidence)
    assert not replace(quiet, promote=False).promote
    forced = contest.waived(replace(quiet, promote=False), "the champion is tainted")
    assert forced.promote
    assert "tainted" in forced.reason
    refused = replace(quiet, promote=False, refused=True)
    assert contest.waived(refused, "the champion is tainted") is refused


def test_photographs_are_asked_for_colours_and_change_the_set(samples: list[Sample]) -> None:
    photo = replace(samples[0], id="f" * 64, attributes={})
    alone = contest.tuples_of(samples, [], 1)
    both = contest.tuples_of(samples, [(photo, requests_for(photo.id, 3))], 1)
    assert len(both) == len(alone) + 3
    assert both.colours[-1] is not None
    assert both.digest != alone.digest != contest.tuples_of(samples, [], 2).digest
    made = np.stack([sample.image for sample in both.samples])
    scores = contest.scores_of(both, made, JUDGES)
    assert np.isnan(scores["shadow"][-3:]).all()
    assert set(scores["adherence"][-3:]) <= {0.0, 1.0}
    # One picture under one seed is one answer, however many captions it gets.
    assert len(contest.by_picture(both, scores)["adherence"]) == len(alone) + 1
    assert contest.by_picture(both, scores)["adherence"][-1] == scores["adherence"][-3:].mean()


def test_too_few_answers_decide_nothing(samples: list[Sample]) -> None:
    _, outcome = held(samples[:4], 0.0, 0.0)
    assert outcome.decision.refused
    assert not gate_check(outcome.decision).passed
    assert gate_check(None).passed
    assert intervals(outcome.decision.evidence) == ""
    assert callable(against_champion)
