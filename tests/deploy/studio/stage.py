"""A line with a real registry, catalog and store, engines to promote on it, and the studio as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from deploy.approvals import Actor
from deploy.manifest import sign_bundle
from deploy.promotion import Request, promote
from deploy.registry import REGISTERED_NAMES, Registry
from deploy.signing import open_signer
from infra.bundles import open_bundle, write_bundle
from infra.catalog import Catalog
from infra.database import Postgres
from infra.database_url import LEGACY_DRIVER
from infra.mlflow_server import ensure_mlflow, stop_mlflow, wait_for_mlflow
from infra.object_store import ObjectStore, open_store
from infra.processes import free_port
from infra.services import NO_TELEMETRY, Endpoints
from infra.settings import REPOSITORY, Settings
from infra.shards import load_version

MODEL = REGISTERED_NAMES["tensorrt_engine"]
_PARTS = ("bucket", "count", "sum")


@dataclass(frozen=True)
class Stage:
    """`settings` name the services, which run."""

    settings: Settings

    @property
    def store(self) -> ObjectStore:
        return open_store(self.settings.store_uri)

    @property
    def registry(self) -> Registry:
        return Registry(str(self.settings.mlflow_uri))

    def register(self, bundle: str) -> str:
        """Signed, recorded and registered, as the assets do it; the version."""
        catalog = Catalog(str(self.settings.catalog_url))
        says = open_bundle(self.store, bundle).meta["catalog"]
        catalog.add_dataset_version(load_version(self.store, says["dataset_version"]))
        catalog.record_model(bundle, says["asset"], says["data_version"], says["dataset_version"])
        catalog.close()
        sign_bundle(self.store, bundle, open_signer(None, self.settings.state))
        return self.registry.register(MODEL, bundle)

    def promote(self, version: str) -> None:
        """With its rows in the ledger."""
        catalog = Catalog(str(self.settings.catalog_url))
        promote(self.registry, catalog, Request(MODEL, version, Actor("anna"), "to try"))
        catalog.close()

    def sibling(self, bundle: str, name: str) -> str:
        """Another engine of the same graphs: a bundle of its own, made at another time."""
        first = open_bundle(self.store, bundle)
        meta = {**first.meta, "catalog": {**first.meta["catalog"], "data_version": name}}
        return write_bundle(
            self.store, f"stages/{name}", first.kind, {file: first.read(file) for file in first.files}, meta
        )

    def environment(self) -> dict[str, str]:
        """What a process of this line reads."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("BACKDROP_", "DAGSTER_"))}
        settings = self.settings
        places = {
            "STATE": settings.state, "STORE": settings.store_uri, "CATALOG_URL": settings.catalog_url,
            "MLFLOW_URI": settings.mlflow_uri, "PRESET": settings.preset,
        }  # fmt: skip
        return {**mine, **NO_TELEMETRY, **{f"BACKDROP_{name}": str(value) for name, value in places.items()}}


@contextmanager
def open_stage(postgres: Postgres, state: Path, store: ObjectStore, name: str, preset: str = "tiny") -> Iterator[Stage]:
    """A stage on databases of its own, with nothing registered."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for database in (f"{name}_mlflow", f"{name}_catalog"):
            connection.execute(f"CREATE DATABASE {database}".encode())
    catalog = Catalog(postgres.url(f"{name}_catalog"))
    catalog.upgrade()
    catalog.close()
    state.mkdir(parents=True, exist_ok=True)
    uri = ensure_mlflow(state, postgres.url(f"{name}_mlflow", LEGACY_DRIVER))
    try:
        wait_for_mlflow(Endpoints("", "", "", uri, state))
        yield Stage(Settings(state=state, store=store.uri, catalog_url=catalog.url, mlflow_uri=uri, preset=preset))
    finally:
        stop_mlflow(state)


@dataclass(frozen=True)
class Served:
    """The studio as a process."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, timeout: float = 60) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def metric(self, line: str) -> float:
        """The value behind the name and labels of one metric; 0 where nothing with these labels was counted yet.

        Raises KeyError for a name that is none.
        """
        with self.client() as client:
            return value_of(client.get("/metrics").text, line)

    def wait_ready(self, seconds: float = 120) -> None:
        """Until a champion answers."""
        self._wait("/readyz", seconds)

    def wait_version(self, version: str, seconds: float = 30) -> None:
        """Until this version is the one that answers."""
        deadline = time.monotonic() + seconds
        with self.client() as client:
            while time.monotonic() < deadline:
                champion = client.get("/v1/status").json()["champion"]
                if champion and champion["version"] == version:
                    return
                time.sleep(0.2)
        raise AssertionError(f"version {version} did not become champion: {self.log.read_text()[-3000:]}")

    def _wait(self, path: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}{path}", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        raise AssertionError(f"{path} did not answer: {self.log.read_text()[-3000:]}")


def value_of(text: str, line: str) -> float:
    """See `Served.metric`; `text` is in Prometheus' format."""
    rows = [row for row in text.splitlines() if row and not row.startswith("#")]
    for row in rows:
        if row.startswith(f"{line} "):
            return float(row.split()[-1])
    name, labelled, _ = line.partition("{")
    kinds = dict(row.split()[2:4] for row in text.splitlines() if row.startswith("# TYPE "))
    known = {*kinds, *(f"{one}_{part}" for one, kind in kinds.items() if kind == "histogram" for part in _PARTS)}
    if name not in known or not labelled:
        raise KeyError(f"/metrics has no {line}; it has {', '.join(sorted(known))}")
    return 0.0


@contextmanager
def served(stage: Stage, log: Path, extra: Mapping[str, str] | None = None) -> Iterator[Served]:
    """The studio, listening."""
    port = free_port()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.studio", "--port", str(port)],
            cwd=REPOSITORY,
            env={**stage.environment(), **(extra or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    found = Served(f"http://127.0.0.1:{port}", process, log)
    try:
        found._wait("/healthz", 120)
        yield found
    finally:
        process.terminate()
        process.wait(30)
