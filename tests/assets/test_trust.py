"""What the assets do with an engine that a job reports: record its plans, sign it all, and tell jobs whom to trust."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assets.trust import seal, trust_of
from deploy.manifest import ENGINE, PLAN, PLAN_ASSET, open_verified, signature_key
from deploy.signing import open_signer
from infra.bundles import write_bundle
from infra.catalog import Model
from infra.errors import BackdropError
from infra.jobs.spec import JobResult
from infra.object_store import open_store
from infra.settings import Settings

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
    seal(line, result, DATASET)
    trust = trust_of(line)
    assert set(trust.rows) == {engine, plan}
    assert open_verified(line.store, engine, ENGINE, trust).read("trunk.onnx") == b"graph"
    assert open_verified(line.store, plan, PLAN, trust).read("trunk.plan") == b"plan"

    signed = line.store.get(signature_key(engine))
    seal(line, result, DATASET)
    assert line.store.get(signature_key(engine)) == signed
    assert len(line.catalog.rows) == 3
    line.store.put(signature_key(engine), b"damaged")
    seal(line, result, DATASET)
    assert line.store.get(signature_key(engine)) == signed


def test_what_the_catalog_does_not_know_is_never_signed(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    with pytest.raises(BackdropError, match="no row of the engine"):
        seal(line, JobResult(data={"engine": engine}), DATASET)
    assert not line.store.exists(signature_key(engine))


def test_a_plan_that_only_lies_in_the_store_is_neither_recorded_nor_signed(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    line.catalog.record_model(engine, "tensorrt_engine", VERSION, DATASET)
    catalog = {"asset": PLAN_ASSET, "data_version": KEY, "dataset_version": DATASET}
    plan = write_bundle(line.store, "p", PLAN, {"trunk.plan": b"somebody else's"}, {"catalog": catalog})
    seal(line, JobResult(data={"engine": engine, "plans": {KEY: plan}}), DATASET, delivered=False)
    assert set(trust_of(line).rows) == {engine}
    assert not line.store.exists(signature_key(plan))
    with pytest.raises(BackdropError):
        open_verified(line.store, plan, PLAN, trust_of(line))


def test_an_engine_that_disagrees_with_its_row_is_not_sealed(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    line.catalog.record_model(engine, "tensorrt_engine", "34" * 32, DATASET)
    with pytest.raises(BackdropError, match="not what the catalog records"):
        seal(line, JobResult(data={"engine": engine}), DATASET)
    assert not line.store.exists(signature_key(engine))


def test_a_key_that_the_settings_trust_need_not_be_the_one_that_signs(tmp_path: Path) -> None:
    line = line_in(tmp_path)
    engine = engine_in(line)
    line.catalog.record_model(engine, "tensorrt_engine", VERSION, DATASET)
    seal(line, JobResult(data={"engine": engine}), DATASET)
    mine = open_signer(None, line.settings.state).public
    line.settings = line.settings.model_copy(update={"trusted_keys": "ab" * 32})
    with pytest.raises(BackdropError, match="not trusted"):
        open_verified(line.store, engine, ENGINE, trust_of(line))
    line.settings = line.settings.model_copy(update={"trusted_keys": f"{'ab' * 32},{mine}"})
    open_verified(line.store, engine, ENGINE, trust_of(line))
