"""Champion against challenger on the small world: same tuples, same judges, and a page that shows who lost what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from deploy import contest, contest_page
from deploy.against import fallen_back, gate_check
from deploy.compare import Way, generate
from deploy.samples import Sample, to_sample
from evaluation.features import open_extractor
from evaluation.gate import LATENCY
from evaluation.measure import HIGHER_IS_BETTER
from evaluation.photographs import requests_for
from evaluation.report.contest import intervals, render
from infra.errors import BackdropError
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


def held(
    samples: list[Sample], champion: float, challenger: float, untimed: str = ""
) -> tuple[contest.Tuples, contest.Outcome]:
    tuples = contest.tuples_of(samples, [], seed=1)
    old, new = Painter(samples, champion), Painter(samples, challenger)
    made = generate(new, WAY, tuples.samples, tuples.captions, tuples.seeds, 5, lambda done: None)
    return tuples, contest.hold(tuples, old, new, WAY, made, JUDGES, SECTION, 5, lambda done: None, untimed)


def test_the_one_that_does_as_captioned_wins_and_never_the_other_way_round(samples: list[Sample]) -> None:
    _, won = held(samples, champion=0.9, challenger=0.0)
    assert won.decision.promote, won.decision
    assert won.scores["challenger"]["adherence"].mean() > won.scores["champion"]["adherence"].mean()
    tuples, lost = held(samples, champion=0.0, challenger=0.9)
    assert not lost.decision.promote
    assert not lost.decision.refused
    assert not lost.decision.left_out
    page, shown = contest_page.build(tuples, lost, [("Champion", "one")], 4)
    assert len(page.worst) == 4
    assert set(shown) <= {sample.id for sample in samples}
    assert page.worst[0].fall >= page.worst[-1].fall > 0
    html = render(page)
    assert "The champion stays" in html
    assert html.count("data:image/") == 4 * (4 + len(page.others))
    assert "http" not in html.replace("http://www.w3.org", "")


def test_an_equal_challenger_stays_one_unless_the_champion_has_to_go(samples: list[Sample]) -> None:
    _, same = held(samples, champion=0.0, challenger=0.0, untimed="nobody looked at the clock")
    assert not same.decision.promote
    assert same.decision.reason == "adherence is not surely better; the champion stays"
    assert all(row.not_worse and not row.better for row in same.decision.evidence)
    forced = contest.waived(same.decision, "the champion is tainted")
    assert forced.promote
    assert "tainted" in forced.reason
    refused = replace(same.decision, refused=True)
    assert contest.waived(refused, "the champion is tainted") is refused


def test_times_of_an_engine_that_fell_back_are_not_compared(samples: list[Sample]) -> None:
    def engine(fallback: str | None) -> Any:
        return SimpleNamespace(backend="onnxruntime", fallback=fallback)

    assert fallen_back(engine(None), engine(None)) == ""
    untimed = fallen_back(engine("the plan is for another GPU"), engine(None))
    assert untimed == "the champion fell back to onnxruntime (the plan is for another GPU)"
    assert "the challenger fell back" in fallen_back(engine(None), engine("no plan"))
    tuples, outcome = held(samples, champion=0.9, challenger=0.0, untimed=untimed)
    assert outcome.decision.promote
    assert LATENCY not in {row.metric for row in outcome.decision.evidence}
    assert outcome.decision.as_dict()["left_out"] == f"latency was not compared: {untimed}"
    page, _ = contest_page.build(tuples, outcome, [], 0)
    assert "latency was not compared: the champion fell back" in render(page)
    assert contest.waived(replace(outcome.decision, promote=False), "tainted").left_out
    assert LATENCY in {row.metric for row in held(samples, 0.9, 0.0)[1].decision.evidence}


def test_a_margin_of_no_metric_is_refused_and_one_of_a_metric_that_was_not_measured_waits() -> None:
    section = GateSection(margins={"seam": 0.5, "expansion": 0.1})
    assert dict(contest.policy_of(section, {"adherence", "seam"}).margins) == {"seam": 0.5}
    with pytest.raises(BackdropError, match=r"'expansoin' .* Did you mean 'expansion'"):
        contest.policy_of(GateSection(margins={"expansoin": 0.1}), HIGHER_IS_BETTER)
    with pytest.raises(ValidationError, match="greater than 0"):
        GateSection(margins={"seam": -0.1})


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
