"""What the assets do with an engine that a job reports: record its plans, sign it all, and tell jobs whom to trust."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assets.training_job import versioned
from assets.trust import record_plans, seal, trust_of
from deploy.manifest import ENGINE, PLAN, PLAN_ASSET, open_verified, signature_key
from deploy.signing import open_signer
from deploy.specs import EvaluateSpec
from infra.bundles import write_bundle
from infra.catalog import Model
from infra.errors import BackdropError
from infra.jobs.spec import JobResult
from infra.object_store import open_store
from infra.settings import Settings
from training.presets.sections import EvaluateSection

VERSION, KEY, DATASET = "12" * 32, "ab" * 32, "cd" * 32


class Rows:
    """The catalog, as far as this is concerned."""

    def __init__(self) -> None:
        self.rows: list[Model] = []

    def record_model(self, id: str, asset: str, data_version: str, dataset_version: str) -> None:
        self.rows.append(Model(id, asset, data_version, dataset_version, None, datetime.now(UTC)))

    def models(self) -> list[Model]:
        return self.rows


def line_in(folder: Path, **settings: Any) -> Any:
    store = open_store(f"file://{folder}/store")
    return SimpleNamespace(settings=Settings(state=folder / "state", **settings), store=store, catalog=Rows())


def engine_in(line: Any) -> str:
    catalog = {"asset": "tensorrt_engine", "data_version": VERSION[:12], "dataset_version": DATASET}
    return write_bundle(line.store, "e", ENGINE, {"trunk.onnx": b"graph"}, {"catalog": catalog})


def test_an_engine_and_its_plans_are_signed_and_open(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    catalog = {"asset": PLAN_ASSET, "data_version": KEY, "dataset_version": DATASET}
    plan = write_bundle(line.store, "p", PLAN, {"trunk.plan": b"plan"}, {"catalog": catalog})
    line.catalog.record_model(engine, "tensorrt_engine", VERSION, DATASET)
    line.catalog.record_model("ef" * 32, "pretrained_dit", VERSION, DATASET)
    result = JobResult(data={"engine": engine, "plans": {KEY: plan}})
    record_plans(line, result, DATASET)
    seal(line, result)
    trust = trust_of(line)
    assert set(trust.rows) == {engine, plan}
    assert open_verified(line.store, engine, ENGINE, trust).read("trunk.onnx") == b"graph"
    assert open_verified(line.store, plan, PLAN, trust).read("trunk.plan") == b"plan"

    signed = line.store.get(signature_key(engine))
    seal(line, result)
    assert line.store.get(signature_key(engine)) == signed
    assert len(line.catalog.rows) == 3
    line.store.put(signature_key(engine), b"damaged")
    seal(line, result)
    assert line.store.get(signature_key(engine)) == signed


def test_a_seal_that_was_interrupted_is_made_up_for(tmp_path: Path) -> None:
    """The rows were written with the engine's: neither a kill before the signature nor a wrong key costs the plans."""
    line = line_in(tmp_path, signing_key="env:NOT_SET_ANYWHERE")
    engine = engine_in(line)
    catalog = {"asset": PLAN_ASSET, "data_version": KEY, "dataset_version": DATASET}
    plan = write_bundle(line.store, "p", PLAN, {"trunk.plan": b"plan"}, {"catalog": catalog})
    result = JobResult(data={"engine": engine, "plans": {KEY: plan}})
    record_plans(line, result, DATASET)
    line.catalog.record_model(engine, "tensorrt_engine", VERSION, DATASET)
    with pytest.raises(BackdropError, match="is not set"):
        seal(line, result)
    line.settings = line.settings.model_copy(update={"signing_key": None})
    seal(line, result)
    assert open_verified(line.store, plan, PLAN, trust_of(line)).read("trunk.plan") == b"plan"


def test_what_the_catalog_does_not_know_is_never_signed(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    with pytest.raises(BackdropError, match="no row of the engine"):
        seal(line, JobResult(data={"engine": engine}))
    assert not line.store.exists(signature_key(engine))


def test_a_plan_that_only_lies_in_the_store_is_neither_recorded_nor_signed(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    line.catalog.record_model(engine, "tensorrt_engine", VERSION, DATASET)
    catalog = {"asset": PLAN_ASSET, "data_version": KEY, "dataset_version": DATASET}
    plan = write_bundle(line.store, "p", PLAN, {"trunk.plan": b"somebody else's"}, {"catalog": catalog})
    seal(line, JobResult(data={"engine": engine, "plans": {KEY: plan}}))
    assert set(trust_of(line).rows) == {engine}
    assert not line.store.exists(signature_key(plan))
    with pytest.raises(BackdropError):
        open_verified(line.store, plan, PLAN, trust_of(line))


def test_an_engine_that_disagrees_with_its_row_is_not_sealed(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    line.catalog.record_model(engine, "tensorrt_engine", "34" * 32, DATASET)
    with pytest.raises(BackdropError, match="not what the catalog records"):
        seal(line, JobResult(data={"engine": engine}))
    assert not line.store.exists(signature_key(engine))


def test_a_key_that_the_settings_trust_need_not_be_the_one_that_signs(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    line.catalog.record_model(engine, "tensorrt_engine", VERSION, DATASET)
    seal(line, JobResult(data={"engine": engine}))
    mine = open_signer(None, line.settings.state).public
    line.settings = line.settings.model_copy(update={"trusted_keys": "ab" * 32})
    with pytest.raises(BackdropError, match="not trusted"):
        open_verified(line.store, engine, ENGINE, trust_of(line))
    line.settings = line.settings.model_copy(update={"trusted_keys": f"{'ab' * 32},{mine}"})
    open_verified(line.store, engine, ENGINE, trust_of(line))


def test_a_takedown_that_taints_the_champion_makes_another_report() -> None:
    fields = {
        "dataset": "d", "engine": "e", "teacher": "t", "autoencoder": "a", "image_size": 64,
        "config": EvaluateSection(),
    }  # fmt: skip
    before = versioned(EvaluateSpec, fields | {"champion_tainted": "", "champion": "c"})
    after = versioned(EvaluateSpec, fields | {"champion_tainted": "it saw two images", "champion": "c"})
    assert before != after
    assert after == versioned(EvaluateSpec, fields | {"champion_tainted": "it saw three images", "champion": "c"})
    assert before == versioned(EvaluateSpec, fields | {"champion": "c"})
