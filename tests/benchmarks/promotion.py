"""Rollbacks against a real PostgreSQL and a real MLflow server: how long the champion of before takes to be back.

The promise is on the work itself, with the services up. The whole command is printed beside it: most of it is Python
importing MLflow's client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from infra.settings import REPOSITORY, Settings
from tests.benchmarks.promise import Promise

ROUNDS = 20


def promises() -> Iterator[Promise]:
    from infra.database import remove_state
    from infra.services import wait_for_mlflow
    from orchestration.services import services

    with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
        settings = Settings(state=Path(folder) / "state")
        with services(settings, Console(quiet=True)) as environment:  # held, so that no command stops them
            held = Settings.load(environment)
            wait_for_mlflow(held)
            slowest = max(rollbacks(str(held.mlflow_uri), str(held.catalog_url)))
            yield Promise(f"rollback, slowest of {ROUNDS}", slowest, 2, "s", at_least=False)
            print(f"`backdrop rollback` as a whole: {command(settings):.1f} s", flush=True)
        remove_state(settings)


def rollbacks(mlflow: str, catalog_url: str) -> list[float]:
    """Seconds of each: from the ledger's row to the alias that is back, read again, and written down."""
    from deploy.approvals import Actor
    from deploy.promotion import Request, promote, rollback, rollback_row
    from deploy.registry import REGISTERED_NAMES, Registry
    from infra.catalog import Catalog

    model, registry, catalog = REGISTERED_NAMES["tensorrt_engine"], Registry(mlflow), Catalog(catalog_url)
    catalog.upgrade()
    versions = [registry.register(model, f"{number:064x}") for number in (1, 2)]

    def request(version: str) -> Request:
        return Request(model, version, Actor("bench"), "to measure")

    taken = []
    promote(registry, catalog, request(versions[0]))
    for _ in range(ROUNDS):
        promote(registry, catalog, request(versions[1]))
        began = time.perf_counter()
        rollback(registry, catalog, request(""), rollback_row(catalog, model))
        taken.append(time.perf_counter() - began)
    promote(registry, catalog, request(versions[1]))
    catalog.close()
    return taken


def command(settings: Settings) -> float:
    """Seconds of the command line's process, with the services up."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKDROP_")}
    environment["BACKDROP_STATE"] = str(settings.state)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "rollback", "--reason", "to measure"],
        cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - began
