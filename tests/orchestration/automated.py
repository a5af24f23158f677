"""A line whose jobs are done in no time: real catalog, store, registry and Dagster instance, results written here."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from rich.console import Console

from assets.curation import drift, suite
from assets.line import Line
from assets.promotion import human_approval
from assets.stage import latest_metadata
from infra.bundles import write_bundle
from infra.catalog import SightingRow
from infra.catalog.ledger import DONE, Entry
from infra.files import sha256_bytes
from infra.jobs.spec import Check, JobResult, JobSpec
from infra.settings import Settings
from infra.shards import FILTERED_COLUMNS, shard_places, write_slice
from orchestration.automation import gather, ingest_job, retrain_job
from orchestration.definitions import LINEAGE
from tests.assets.workshop import image_id, sample

ENGINE = "backdrop-engine"
MODELS = ("autoencoder", "latent_shards", "pretrained_dit", "inpainting_finetune", "distilled_model")


@dataclass
class Hands:
    """A launcher that does every job at once. `ran`: (verb, dataset version) in order; `images`: delivery → numbers of
    the pictures in it; `drifting`: deliveries whose drift check fails; `broken`: a verb that fails."""

    line: Line
    images: dict[str, range] = field(default_factory=dict)
    drifting: set[str] = field(default_factory=set)
    ran: list[tuple[str, str]] = field(default_factory=list)
    broken: str = ""
    slices: int = 1

    def run(self, *, verb: str, spec: JobSpec, **_: object) -> JobResult:
        if verb == self.broken:
            raise RuntimeError(f"the {verb} job fell over")
        values: Mapping[str, Any] = spec.model_dump(mode="json")
        self.ran.append((verb, str(values.get("dataset", values.get("delivery", "")))))
        result: JobResult = getattr(self, f"_{verb}", self._train)(verb, values)
        self.line.store.put(f"{spec.output}/result.json", result.model_dump_json().encode())
        return result

    def ended_unwatched(self, *_: object) -> bool:
        return False

    def _ingest(self, _: str, values: Mapping[str, Any]) -> JobResult:
        name = values["delivery"]
        rows = [SightingRow(uri=f"file:///{name}/{number}.jpg", etag="1") for number in self.images[name]]
        self.line.catalog.ingest(name, rows)
        return JobResult(data={"data_version": sha256_bytes(name.encode())})

    def _filter(self, _: str, values: Mapping[str, Any]) -> JobResult:
        name, store = values["delivery"], self.line.store
        numbers = [k for k in self.images[name] if image_id(k) not in self.line.catalog.taken_down()]
        piece = write_slice(store, "filtered", FILTERED_COLUMNS, map(sample, numbers), {"delivery": name})
        places = shard_places(store, piece)
        members = [(image_id(k), shard, place) for k, (shard, place) in zip(numbers, places, strict=True)]
        self.line.catalog.stage_slice(name, piece, "chunk", members)
        self.line.catalog.commit_slices(name, [piece])
        failed = {"resolution_drift"} if name in self.drifting else set()
        names = (*suite.CHECKS, *drift.CHECKS)
        return JobResult(checks=[Check(name=one, passed=one not in failed, severity="warn") for one in names])

    def _latents(self, _: str, values: Mapping[str, Any]) -> JobResult:
        key = f"listings/{values['dataset']}.json"
        self.line.store.put(key, b"{}")
        return JobResult(data={"latents": key})

    def _train(self, verb: str, values: Mapping[str, Any]) -> JobResult:
        made_of = {role: values[role] for role in ("base", "teacher", "autoencoder") if role in values}
        weights = f"{verb} {values['dataset']} {made_of}".encode()
        model = write_bundle(self.line.store, f"models/{verb}", verb, {"weights": weights}, made_of)
        return JobResult(data={"model": model}, metadata={"seconds": 1800.0, "ranks": 2})


@dataclass
class Works:
    """The line, its launcher and its instance."""

    line: Line
    hands: Hands
    instance: dg.DagsterInstance

    def deliver(self, name: str, numbers: range) -> None:
        self.hands.images[name] = numbers
        self.line.catalog.add_delivery(name, f"file:///{name}", "pictures")

    def launch(self, request: dg.RunRequest, *, fails: bool = False) -> str:
        """Runs what was asked for as the daemon would, up to the student; its id."""
        here = dg.Definitions(
            assets=LINEAGE,
            asset_checks=[human_approval],
            jobs=[ingest_job, retrain_job],
            resources={"line": self.line},
            executor=dg.in_process_executor,
        )
        job = here.resolve_job_def(str(request.job_name))
        chosen = [dg.AssetKey(name) for name in ("training_set", *MODELS)] if request.job_name == "retrain" else None
        done = job.execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags=request.tags,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            asset_selection=chosen,
            raise_on_error=not fails,
        )
        if chosen and done.success:
            self._ship()
        return done.run_id

    def _ship(self) -> None:
        """What the rest of the line would leave: an engine that knows its student, and a report."""
        store, dataset = self.line.store, str(self.shown("training_set")["dataset_version"])
        student = JobResult.model_validate_json(store.get(str(self.shown("distilled_model")["result"]))).data["model"]
        bundle = write_bundle(store, "engines", "engine", {"trunk.onnx": student.encode()}, {"student": student})
        self.line.catalog.record_model(bundle, "tensorrt_engine", "v", dataset)
        marks = gather._marks(self.line)
        for asset in ("tensorrt_engine", "evaluation_report"):
            metadata = {"dataset_version": dataset, "recipe": marks[asset], "bundle": bundle}
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))

    def crown(self, version: str) -> None:
        """The newest engine becomes champion, by the ledger."""
        bundle = str(self.shown("tensorrt_engine")["bundle"])
        self.line.catalog.add_entry(Entry(DONE, ENGINE, "champion", None, version, bundle, "the line"))

    def shown(self, asset: str) -> dict[str, Any]:
        return latest_metadata(self.instance, asset) or {}


@contextmanager
def works(state: Path) -> Iterator[Works]:
    """On real services in a folder of their own."""
    from infra.database import remove_postgres
    from infra.services import wait_for_mlflow
    from orchestration.services import services

    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("BACKDROP_")]:
        del os.environ[name]
    os.environ |= {"BACKDROP_STATE": str(state), "BACKDROP_PRESET": "tiny"}
    try:
        with services(Settings.load(), Console(file=io.StringIO())) as environment:
            os.environ.update(environment)
            wait_for_mlflow(Settings.load())
            line = Line()
            hands = Hands(line)
            line.__dict__["launcher"] = hands
            with dg.DagsterInstance.get() as instance:
                yield Works(line, hands, instance)
    finally:
        remove_postgres(state)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Works]:
    with works(tmp_path_factory.mktemp("automated") / "state") as found:
        yield found
