"""personalized_model follows its base: a delivery that the base has not seen makes nothing again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from assets import training_job
from assets.line import Line
from assets.personalized_model import personalized_model, subjects
from infra.images import encode_jpeg
from infra.jobs.spec import JobResult
from training.personalise.subject import record_subject


@pytest.fixture
def line(tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("BACKDROP_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    monkeypatch.setenv("BACKDROP_PRESET", "tiny")
    line = Line()
    record_subject(line.store, "my-mug", "mug", {"a.jpg": encode_jpeg(np.full((32, 32, 3), 90, np.uint8))})
    return line


def made(line: Line, instance: dg.DagsterInstance, asset: str, dataset: str, **data: str) -> None:
    key = f"stages/{asset}/{dataset}/result.json"
    line.store.put(key, JobResult(data=data).model_dump_json().encode())
    metadata = {"data_version": f"{asset} on {dataset}", "dataset_version": dataset, "result": key}
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))


def test_a_new_training_set_teaches_nothing_again_and_a_new_base_does(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def run(context: Any, line: Line, stage: Any, version: str, spec: Any, *_: Any) -> tuple[JobResult, dict[str, str]]:
        trained.append(spec.dataset)
        result, record = JobResult(), {"run": "r", "experiment": "e"}
        line.store.put(f"{spec.output}/result.json", result.model_dump_json().encode())
        line.store.put(f"{spec.output}/tracking.json", json.dumps(record).encode())
        return result, record

    monkeypatch.setattr(training_job, "_run_tracked", run)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(subjects.name), ["my-mug"])

        def personalised() -> dict[str, Any]:
            resources = {"line": line}
            done = dg.materialize([personalized_model], instance=instance, resources=resources, partition_key="my-mug")
            metadata = done.asset_materializations_for_node("personalized_model")[0].metadata
            return {name: value.value for name, value in metadata.items()}

        made(line, instance, "training_set", "spring", version="spring")
        for asset in ("autoencoder", "pretrained_dit"):
            made(line, instance, asset, "spring", model="a" * 64)
        assert personalised()["dataset_version"] == "spring"
        made(line, instance, "training_set", "summer", version="summer")
        again = personalised()
        assert again["reused"]
        assert again["dataset_version"] == "spring"
        made(line, instance, "pretrained_dit", "summer", model="b" * 64)
        assert personalised()["dataset_version"] == "summer"
        assert trained == ["spring", "summer"]
