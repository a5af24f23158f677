"""The whole line on the smallest preset: runs, is not run twice, survives kill -9."""

from __future__ import annotations

import json
import os
import random
import re
import time

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


def trained(workshop: Workshop) -> set[str]:
    """Assets after the training set whose job has committed its result."""
    stages = workshop.state / "store" / "stages"
    return {name for name in ASSETS[ASSETS.index("autoencoder") :] if any((stages / name).rglob("result.json"))}


def test_killed_at_a_random_moment_it_picks_up(workshop: Workshop) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    chosen = random.Random(seed)
    # In the middle of a job, the latest the one that makes the engine.
    count, wait = chosen.randint(1, ASSETS.index("tensorrt_engine") - ASSETS.index("autoencoder")), chosen.uniform(0, 2)
    print(f"seed {seed}: kill -9 {wait:.1f} s after result {count}")
    process = workshop.start("run")
    deadline = time.monotonic() + 400
    while len(trained(workshop)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(wait)
    done_before = trained(workshop)
    ended = process.poll()
    process.kill()
    said, _ = process.communicate()
    assert ended is None, f"it ended with {ended} before it was killed:\n{said}"
    assert len(done_before) >= count, said
    again = workshop.run("run")
    assert again.code == 0, again.output
    redone = made(again) & done_before
    assert not redone, f"finished before the kill, yet made again: {redone}\n{again.output}"
