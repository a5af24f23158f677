"""A small world for the deploy room: random models, a dataset version of drawn pictures, one exported engine.

Besides it a registry with four versions to promote, and a recorder in TensorRT's place.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deploy.manifest import CatalogRow, Trust
from deploy.registry import Registry
from infra.catalog import Catalog
from infra.database import Postgres
from infra.images import encode_jpeg, encode_png
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult, JobSpec
from infra.object_store import ObjectStore, open_store
from infra.shards import FILTERED_COLUMNS, make_version, write_slice
from tests.deploy.promoting import MODEL
from tests.deploy.trt_recorder import Recorder

SIZE = 32


@dataclass(frozen=True)
class World:
    """Bundle ids and the dataset version in `store`; `engine` is what the verb `export` made of them."""

    store: ObjectStore
    folder: Path
    dataset: str
    autoencoder: str
    student: str
    teacher: str
    exported: JobResult
    trust: Trust

    @property
    def engine(self) -> str:
        return str(self.exported.data["engine"])

    def job(self, spec: JobSpec) -> JobContext[Any]:
        folder = self.folder / "jobs" / spec.output.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return JobContext(spec, self.store, spec.output, folder)


def row(index: int, catalogue: bool, holdout: bool) -> dict[str, Any]:
    """A grey box on a red wall and a blue floor; `catalogue` rows carry the attributes of the sample catalogue."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:16], image[16:] = (192, 38, 42), (42, 82, 184)
    product = np.zeros((SIZE, SIZE), bool)
    product[12:24, 12 : 20 + index % 3] = True
    image[product] = 120
    regions = np.where(product, 0, np.where(np.arange(SIZE)[:, None] < 16, 1, 2)).astype(np.uint8)
    regions[20:24, 23:27] = 3
    image[regions == 3] //= 2
    attributes: dict[str, Any] = {}
    if catalogue:
        attributes = {
            "catalogue": {"seed": 0, "index": index, "size": SIZE},
            "object": "box", "wall": "red", "floor": "blue", "seamless": False,
            "floor_line": 0.5, "shadow_side": "right", "light": "front left",
        }  # fmt: skip
    if holdout:
        attributes["regions"] = base64.b64encode(encode_png(regions)).decode()
    return {
        "id": f"{index:064x}",
        "image": encode_jpeg(image),
        "mask": encode_png(product.astype(np.uint8) * 255),
        "captions": [f"a box on a blue floor against a red wall, number {index}"],
        "attributes": attributes,
        "width": SIZE,
        "height": SIZE,
        "source": f"pictures/{index}.jpg",
    }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from deploy.export import run
    from deploy.manifest import sign_bundle
    from deploy.signing import open_signer
    from deploy.specs import ExportSpec
    from training.models.autoencoder import Autoencoder, AutoencoderConfig
    from training.models.dit import DiT, DiTConfig, as_flow_map
    from training.models.io import save_model
    from training.presets.sections import ExportSection

    folder = tmp_path_factory.mktemp("world")
    store = open_store(f"file://{folder}/store")
    slices = [
        write_slice(store, "slices", FILTERED_COLUMNS, [row(k, True, False) for k in range(5)], {"split": "train"}),
        write_slice(
            store, "slices", FILTERED_COLUMNS, [row(k, True, True) for k in range(10, 14)], {"split": "holdout"}
        ),
        write_slice(
            store, "slices", FILTERED_COLUMNS, [row(k, False, False) for k in range(20, 23)], {"split": "holdout"}
        ),
    ]
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(width=16, depth=1))
    teacher = DiT(DiTConfig(width=32, depth=1, heads=2))
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    meta = {"image_size": SIZE}
    world = World(
        store=store,
        folder=folder,
        dataset=make_version(store, slices).version,
        autoencoder=save_model(store, "models/a", "autoencoder", autoencoder, meta),
        student=save_model(store, "models/s", "dit", as_flow_map(teacher), meta),
        teacher=save_model(store, "models/t", "dit", teacher, meta),
        exported=JobResult(),
        trust=Trust(),
    )
    spec = ExportSpec(
        store=store.uri, output="stages/tensorrt_engine/test", autoencoder=world.autoencoder, student=world.student,
        image_size=SIZE, config=ExportSection(latency_runs=1, batch_sizes=(1,), steps=2), probe=world.dataset,
    )  # fmt: skip
    exported = run(spec, world.job(spec))
    # What the assets do with a job's result.
    signer, engine = open_signer(None, folder / "state"), str(exported.data["engine"])
    sign_bundle(store, engine, signer)
    known = CatalogRow(asset="tensorrt_engine", data_version="test", dataset_version=world.dataset)
    trust = Trust(keys=(signer.public,), rows={engine: known})
    return World(**{**vars(world), "exported": exported, "trust": trust})


@pytest.fixture(scope="package")
def promotion_server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server on a database of its own, with four versions of the engine."""
    import psycopg

    from infra.database_url import LEGACY_DRIVER
    from infra.mlflow_server import ensure_mlflow, stop_mlflow, wait_for_mlflow
    from infra.services import Endpoints

    state = tmp_path_factory.mktemp("promotion")
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {state.name}".encode())
    uri = ensure_mlflow(state, postgres.url(state.name, LEGACY_DRIVER))
    wait_for_mlflow(Endpoints("", "", "", uri, state))
    registry = Registry(uri)
    for number in range(1, 5):
        assert registry.register(MODEL, f"{number:064x}") == str(number)
    yield uri
    stop_mlflow(state)


@pytest.fixture
def registry(promotion_server: str) -> Registry:
    """Four versions, no alias, no tag of an earlier test."""
    found = Registry(promotion_server)
    for alias in found.aliases(MODEL):
        found.drop_alias(MODEL, alias)
    return found


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    catalog = Catalog(catalog_url)
    yield catalog
    catalog.close()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a recorder in tensorrt's place, and the CPU in CUDA's."""

    def install(recorder: Recorder) -> Recorder:
        monkeypatch.setitem(sys.modules, "tensorrt", recorder.module)
        return recorder

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=7, synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch, "empty", lambda *size, device=None, **rest: empty(*size, **rest).zero_())
    return install
