"""The whole line on the smallest preset: runs, and is not run twice. The tutorial's test kills it."""

from __future__ import annotations

import json
import re

import psutil
import pytest

from tests.line.conftest import Ran, Workshop

pytestmark = [pytest.mark.line, pytest.mark.timeout(900)]

ASSETS = [
    "raw_images",
    "filtered_shards",
    "training_set",
    "autoencoder",
    "latent_shards",
    "pretrained_dit",
    "inpainting_finetune",
    "distilled_model",
    "tensorrt_engine",
    "evaluation_report",
    "promotion",
]


def made(ran: Ran) -> set[str]:
    """Assets that the closing table says were made, not reused."""
    return set(re.findall(r"^\s*(\w+)(?:\[[^\]]*\])?\s+made\b", ran.output, re.MULTILINE))


def test_every_asset_is_made(finished: tuple[Workshop, Ran]) -> None:
    workshop, ran = finished
    assert made(ran) == set(ASSETS), ran.output
    print(f"the small line took {ran.seconds:.0f} s (promise: 90 s after the installation)")
    report = next((workshop.state / "store" / "stages" / "evaluation_report").rglob("*.html")).read_text()
    assert "<img" in report
    assert not re.search(r'(src|href)="https?://', report), "the report must stand alone"


def test_what_ran_is_named_honestly(finished: tuple[Workshop, Ran]) -> None:
    workshop, _ = finished
    result = json.loads(next((workshop.state / "store/stages/tensorrt_engine").rglob("result.json")).read_text())
    assert result["data"]["backend"] == "onnxruntime"


def test_nothing_is_left_running(finished: tuple[Workshop, Ran]) -> None:
    workshop, _ = finished
    mine = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(str(workshop.state) in part for part in process.info["cmdline"] or [])
    ]
    assert not mine


def test_a_second_run_trains_nothing(finished: tuple[Workshop, Ran]) -> None:
    workshop, _ = finished
    before = models(workshop)
    again = workshop.run("run")
    assert again.code == 0, again.output
    assert made(again) <= {"training_set", "promotion"}, again.output
    assert models(workshop) == before


def models(workshop: Workshop) -> set[str]:
    return {path.name for path in (workshop.state / "store" / "manifests").glob("*.json")}
