"""Rollbacks against a real PostgreSQL and a real MLflow server: how long the champion of before takes to be back.

Twice, with the services up: the work itself, and the whole command of a new process, most of which is Python's imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from infra.settings import REPOSITORY, Settings
from tests.benchmarks.promise import Promise

ROUNDS, COMMANDS = 20, 5


def promises() -> Iterator[Promise]:
    from deploy.approvals import Actor
    from deploy.promotion import Request, promote, rollback, rollback_row
    from deploy.registry import REGISTERED_NAMES, Registry
    from infra.catalog import Catalog
    from infra.database import remove_state
    from infra.services import wait_for_mlflow
    from orchestration.services import services

    with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
        settings = Settings(state=Path(folder) / "state")
        with services(settings, Console(quiet=True)) as environment:  # held, so that no command stops them
            held = Settings.load(environment)
            wait_for_mlflow(held)
            model, registry = REGISTERED_NAMES["tensorrt_engine"], Registry(str(held.mlflow_uri))
            catalog = Catalog(str(held.catalog_url))
            catalog.upgrade()
            versions = [registry.register(model, f"{number:064x}") for number in (1, 2)]

            def request(version: str) -> Request:
                return Request(model, version, Actor("bench"), "to measure")

            def newer_first(roll_back: Callable[[], object]) -> float:
                """Seconds that it takes once version 2 has replaced version 1."""
                promote(registry, catalog, request(versions[1]))
                began = time.perf_counter()
                roll_back()
                taken = time.perf_counter() - began
                assert registry.aliases(model)["champion"] == versions[0]
                return taken

            def work() -> None:
                rollback(registry, catalog, request(""), rollback_row(catalog, model))

            promote(registry, catalog, request(versions[0]))
            slowest = max(newer_first(work) for _ in range(ROUNDS))
            yield Promise(f"rollback, slowest of {ROUNDS}", slowest, 2, "s", at_least=False)
            slowest = max(newer_first(lambda: command(settings)) for _ in range(COMMANDS))
            yield Promise(f"`backdrop rollback`, slowest of {COMMANDS}", slowest, 2, "s", at_least=False)
            catalog.close()
        remove_state(settings)


def command(settings: Settings) -> None:
    """The command line's process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKDROP_")}
    environment["BACKDROP_STATE"] = str(settings.state)
    subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "rollback", "--reason", "to measure"],
        cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
