"""The verb `evaluate` on the small world: checks, numbers and a page that needs nothing beside it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch

from deploy import against, compare, latency
from deploy.engines.open import open_engine
from deploy.evaluate import run, shift_of
from deploy.history import notes_of, series_of, truth_table
from deploy.model_card import FAILURES, energy_words
from deploy.samples import Pictures, is_catalogue
from deploy.specs import CHECKS, EvaluateSpec
from evaluation.measured import reference_of
from evaluation.metrics.energy import Energy
from evaluation.reward import load_reward
from infra.errors import BackdropError
from infra.jobs.spec import JobResult
from infra.object_store import ObjectMissing
from infra.tiles import SMALL_BYTES
from tests.deploy.conftest import SIZE, World
from training.editing import Parts
from training.presets.sections import EvaluateSection, GateSection


@pytest.fixture(scope="module")
def evaluated(world: World) -> JobResult:
    filtered = JobResult(
        data={
            "funnel": [
                {"filter": "decode", "seen": 20, "dropped": 3, "left": 17},
                {"filter": "text", "seen": 17, "dropped": 0, "left": 17},
            ],
            "truth": {
                "kinds": {"corrupt": {"planted": 3, "dropped": 3, "by": {"decode": 3}}},
                "clean": {"files": 17, "dropped": 0, "by": {}},
            },
            "unsure_masks": [{"image": "ab", "uri": "file:///x/<bottle>.jpg", "confidence": 0.3, "reason": "unsure"}],
        }
    )
    world.store.put("stages/filtered_shards/sample/abc/result.json", filtered.model_dump_json().encode())
    world.store.put("stages/pretrained_dit/abcdef/curve.json", b'[{"step": 1, "loss": 2.0}, {"step": 9, "loss": 0.5}]')
    trained = JobResult(
        metadata={"steps": 9, "images_per_second": 12.0},
        files={"curve": "stages/pretrained_dit/abcdef/curve.json"},
        data={"model": world.teacher},
    )
    world.store.put("stages/pretrained_dit/abcdef/result.json", trained.model_dump_json().encode())
    spec = EvaluateSpec(
        store=world.store.uri,
        output="stages/evaluation_report/test",
        dataset=world.dataset,
        engine=world.engine,
        trust=world.trust,
        teacher=world.teacher,
        stage1=world.teacher,
        autoencoder=world.autoencoder,
        image_size=SIZE,
        config=EvaluateSection(
            segmenter_steps=2,
            reward_steps=2,
            best_of=2,
            watched=3,
            batch_size=3,
            teacher_steps=2,
            student_steps=2,
            photos=8,
            enforce=False,
        ),
        preset="tiny",
        delivery_results={"sample-tiny": "stages/filtered_shards/sample/abc/result.json"},
        stage_results={
            "pretrained_dit": "stages/pretrained_dit/abcdef/result.json",
            "distilled_model": "stages/distilled_model/gone/result.json",
        },
    )
    return run(spec, world.job(spec))


def test_every_check_is_reported_and_the_product_survives(evaluated: JobResult) -> None:
    checks = {check.name: check for check in evaluated.checks}
    assert tuple(checks) == CHECKS
    assert checks["product_identity"].passed
    assert checks["engine_parity"].passed
    assert evaluated.data["passed"]


def test_against_a_champion(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = GateSection(least=4, rounds=10, latency_gain=0.9, latency_margin=50.0)
    spec = EvaluateSpec(
        store=world.store.uri,
        output="stages/evaluation_report/gated",
        dataset=world.dataset,
        engine=world.engine,
        champion=world.engine,
        trust=world.trust,
        teacher=world.teacher,
        autoencoder=world.autoencoder,
        image_size=SIZE,
        config=EvaluateSection(
            segmenter_steps=0,
            reward_steps=0,
            batch_size=8,
            teacher_steps=1,
            student_steps=1,
            photos=4,
            enforce=False,
            gate=gate,
        ),
    )
    monkeypatch.setattr(against, "LEAST_GUARDED", 2)
    result = JobResult.model_validate_json(run(spec, world.job(spec)).model_dump_json())
    assert "neither adherence nor latency is surely better" in result.data["decision"]["reason"]
    assert not result.data["decision"]["promote"]
    assert not next(check for check in result.checks if check.name == "gate").passed
    assert result.data["passed"]
    assert result.data["metrics"]["judged"]["adherence"]["n"] == 4 + 3
    page = world.store.get(result.files["gate"]).decode()
    assert "The champion stays" in page
    # KID and CMMD of both sides with their keys: what was measured, by what, and against which pictures.
    metrics = json.loads(world.store.get(result.files["metrics"]))
    kid = metrics["guards"]["kid"]
    assert kid["champion"] == kid["challenger"] == metrics["distances"]["kid"]
    assert kid["challenger"].keys() >= {"value", "extractor", "weights", "preprocessing", "n", "reference"}
    assert kid["challenger"]["weights"] == world.autoencoder
    assert kid["challenger"]["n"] == 4
    assert kid["p"] == pytest.approx(0.5, abs=0.01)  # one engine on both sides
    reference = reference_of(f"{k:064x}" for k in range(10, 14))
    assert kid["challenger"]["reference"] == metrics["judged"]["feature_distance"]["reference"] == reference
    for shown in ("vae-latent", world.autoencoder[:16], reference[:16], "KID"):
        assert shown in page
    typo = spec.config.model_copy(update={"gate": GateSection(margins={"seams": 0.1})})
    with pytest.raises(BackdropError, match="Did you mean 'seam'"):
        run(spec.model_copy(update={"config": typo}), world.job(spec))
    # What cannot be opened now may be put right: it must not be kept as a decision.
    gone = spec.model_copy(update={"champion": "0" * 64})
    with pytest.raises((BackdropError, ObjectMissing)):
        run(gone, world.job(gone))


def test_the_worst_answers_are_shown_and_told(world: World, evaluated: JobResult) -> None:
    assert world.store.get(evaluated.pictures[FAILURES]).startswith(b"\x89PNG")
    lines = evaluated.data["failures"]
    assert [line["adherence"] for line in lines] == sorted(line["adherence"] for line in lines)
    assert evaluated.data["decision"] is None


def test_each_check_shows_its_own_failures(world: World, evaluated: JobResult) -> None:
    checks = {check.name: check for check in evaluated.checks}
    assert not checks["product_identity"].pictures
    for name in ("wall_colour", "floor_colour", "floor_line", "shadow_side", "beats_baselines", "photographs"):
        check = checks[name]
        assert bool(check.metadata["failing"]) == bool(check.pictures)
        for title, key in check.pictures.items():
            assert title == check.failures_title
            assert len(world.store.get(key)) <= SMALL_BYTES
    assert checks["wall_colour"].metadata["failing"] == 4 * (1 - checks["wall_colour"].metadata["share"])
    keys = [key for check in checks.values() for key in check.pictures.values()]
    assert any("photographs" in key for key in keys)
    failed = {name for name, check in checks.items() if evaluated.pictures[FAILURES] in check.pictures.values()}
    assert failed <= {"object_expansion", "gate"}


def test_a_reward_is_learned_kept_and_watched(world: World, evaluated: JobResult) -> None:
    engine = open_engine(world.store, world.engine, world.trust)
    assert load_reward(world.store, evaluated.data["reward"], engine.embed)
    engine.close()
    found = evaluated.data["metrics"]["reward"]
    assert 0 <= found["accuracy"]["all"] <= 1
    assert found["picking"]["requests"] == 3
    assert found["picking"]["reward@2"] >= found["picking"]["reward@1"]
    assert {"independent@1", "independent@2", "over_optimised"} <= found["picking"].keys()
    assert "reward" in evaluated.data["metrics"]["judged"]


def test_features_and_energy_say_what_they_were_measured_by(world: World, evaluated: JobResult) -> None:
    metrics = evaluated.data["metrics"]
    distance = metrics["judged"]["feature_distance"]
    assert (distance["extractor"], distance["weights"]) == ("vae-latent", world.autoencoder)
    assert distance["preprocessing"].startswith(f"{SIZE} × {SIZE}")
    assert metrics["reward"]["picking"]["weights"] == world.autoencoder
    assert "extractor" not in metrics["judged"]["adherence"]
    assert metrics["distances"] == {}, "four pictures are too few"
    energy = metrics["energy"]
    assert (energy["joules"] is None) == energy["source"].startswith("not measured: ")
    page = world.store.get(evaluated.files["report"]).decode()
    for shown in (energy["source"], distance["preprocessing"], distance["reference"][:12]):
        assert shown in page


def test_energy_is_of_pictures_that_were_made_for_as_long_as_a_counter_needs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def metered(run: Callable[[], int], device: torch.device) -> Energy:
        began = time.monotonic()
        made.append(run())
        assert time.monotonic() - began >= 0.2
        return Energy(1.5, 30.0, str(device))

    monkeypatch.setattr(latency, "energy_per_picture", metered)
    monkeypatch.setattr(latency, "ENERGY_SECONDS", 0.2)
    engine = open_engine(world.store, world.engine, world.trust)
    samples = Pictures(world.store, world.dataset, SIZE, world.folder / "cache").holdout(3)
    images, products = (np.stack([getattr(sample, name) for sample in samples]) for name in ("image", "product"))
    found = latency.energy(engine, images, products, [sample.caption for sample in samples], steps=1)
    engine.close()
    assert made[0] >= 3
    assert made[0] % 3 == 0, "whole batches"
    assert energy_words(found.as_dict()) == f"1.5 J at 30 W ({found.source})"


def test_numbers_of_every_column(evaluated: JobResult) -> None:
    means = evaluated.data["metrics"]["means"]
    assert set(means) == {"engine", "teacher", "mean colour", "nearest caption", "Telea"}
    assert means["nearest caption"]["wall_colour"] == 1.0  # the training pictures have the same wall
    assert evaluated.data["metrics"]["photographs"]["photographs"] == 3
    assert evaluated.data["metrics"]["photographs"]["answers"] == 12
    assert evaluated.data["metrics"]["forwards"] == {"engine": 2, "teacher": 4}


def test_a_segmenter_that_has_learned_nothing_is_not_believed(world: World, evaluated: JobResult) -> None:
    expansion = evaluated.data["metrics"]["expansion"]
    assert expansion["segmenter_iou"] < 0.95
    assert expansion["means"] == {}
    assert "Not measured: the segmenter" in world.store.get(evaluated.files["report"]).decode()


def test_the_page_needs_nothing_beside_it(world: World, evaluated: JobResult) -> None:
    page = world.store.get(evaluated.files["report"]).decode()
    assert "ONNX Runtime" in page
    assert "TensorRT" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert page.count("data:image/png") >= 4 * 4 + 3 * 5
    assert "&lt;bottle&gt;.jpg" in page
    assert "corrupt" in page
    assert "<polyline" in page
    assert world.teacher in page


def test_samples_of_each_kind(world: World) -> None:
    pictures = Pictures(world.store, world.dataset, SIZE, world.folder / "cache")
    assert [is_catalogue(sample.attributes) for sample in pictures.holdout(3)] == [True] * 3
    photographs = pictures.photographs(8)
    assert len(photographs) == 3
    assert not any(is_catalogue(sample.attributes) for sample in photographs)
    assert [sample.id for sample in pictures.photographs(2)] == [sample.id for sample in photographs[:2]]
    assert len(pictures.training(100)) == 5
    assert len(pictures.training(2)) == 2


def test_history_reads_what_the_jobs_write() -> None:
    rows = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 2, "loss": 1.0, "split": 0.5}]
    assert series_of(rows) == {"loss": [(1.0, 2.0), (2.0, 1.0)], "split": [(2.0, 0.5)]}
    assert notes_of({"steps": 9, "trained_parameters": 4, "random_masks_seconds": 1.5}) == [
        ("steps", "9"),
        ("random masks seconds", "1.5"),
    ]
    table = truth_table({"kinds": {}, "clean": {"files": 4, "dropped": 1, "by": {"text": 1}}})
    assert table[1] == ["clean", "4", "1", "25.0 %", "text 1"]


def test_a_teacher_is_sampled_at_the_times_that_it_was_trained_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.models.io import load_model, save_model

    teacher = load_model(world.store, world.teacher)
    shifted = save_model(world.store, "models/shifted", "dit", teacher, {"shift": 2.0})
    seen: list[float] = []

    def complete(parts: Any, images: np.ndarray, *given: Any, shift: float = 1.0, **way: Any) -> np.ndarray:
        seen.append(shift)
        return images

    monkeypatch.setattr(compare, "complete", complete)
    samples = Pictures(world.store, world.dataset, SIZE, world.folder / "cache").holdout(2)
    for bundle in (world.teacher, shifted):
        way = compare.Way(2, 1.0, student=False, shift=shift_of(world.store, bundle))
        compare.generate(cast(Parts, None), way, samples, ["a", "b"], [0, 1], 2, lambda done: None)
    assert seen == [1.0, 2.0]
