"""`backdrop personalise` on what the small line made: a partition of its own, one clear message for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.line.conftest import Ran, Workshop
from tests.line.drawn import picture
from tests.line.test_bad_input import refused

pytestmark = [pytest.mark.line, pytest.mark.timeout(600), pytest.mark.usefixtures("kept_up")]


@pytest.fixture
def mug(tmp_path: Path) -> Path:
    folder = tmp_path / "mug"
    folder.mkdir()
    for seed in range(3):
        picture(folder / f"{seed}.png", seed)
    return folder


def test_a_subject_becomes_a_partition_and_is_not_made_twice(finished: tuple[Workshop, Ran], mug: Path) -> None:
    workshop, _ = finished
    ran = workshop.run("personalise", "my-mug", "--images", str(mug), "--word", "mug")
    assert ran.code == 0, ran.output
    assert 'captions call it "sks mug"' in ran.output
    made = list((workshop.state / "store" / "stages" / "personalized_model").rglob("result.json"))
    assert len(made) == 1
    result = json.loads(made[0].read_text())
    assert result["metadata"]["subject"] == "my-mug"
    assert len(result["shows"][result["pictures"]["Photographs"]]) == 3
    again = workshop.run("personalise", "my-mug", "--images", str(mug), "--word", "mug")
    assert again.code == 0, again.output
    assert list((workshop.state / "store" / "stages" / "personalized_model").rglob("result.json")) == made


def test_bad_input(finished: tuple[Workshop, Ran], mug: Path) -> None:
    workshop, _ = finished
    refused(workshop.run("personalise", "my-mug", "--images", str(mug / "nowhere"), "--word", "mug"), "nowhere")
    refused(workshop.run("personalise", "My Mug", "--images", str(mug), "--word", "mug"), "My Mug")
    wrong = workshop.run("personalise", "my-mug", "--images", str(mug), "--word", "mug", "--method", "dreambooths")
    refused(wrong, "method", "dreambooth")
