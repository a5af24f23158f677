"""The small line, run for real: `python -m orchestration.cli run --preset tiny` in a state folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from infra.settings import REPOSITORY, Settings
from orchestration.services import services
from tests.line.pages import CHROMIUM, PATIENCE_MS, QUIET

if TYPE_CHECKING:
    from playwright.sync_api import Page


@dataclass(frozen=True)
class Ran:
    """What one command printed and how it ended."""

    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Workshop:
    """A state folder and the commands on it."""

    state: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("BACKDROP_", "DAGSTER_"))}
        return {**mine, "BACKDROP_STATE": str(self.state), "BACKDROP_PRESET": "tiny", "COLUMNS": "200", **(extra or {})}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestration.cli", *arguments]

    def run(self, *arguments: str, timeout: float = 400, **extra: str) -> Ran:
        began = time.monotonic()
        done = subprocess.run(
            self.command(*arguments),
            cwd=REPOSITORY,
            env=self.environment(extra),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        return Ran(done.returncode, done.stdout, time.monotonic() - began)

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=REPOSITORY,
            env=self.environment(extra),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Meanwhile commands find the services running, and leave them so; at its end they are stopped."""
        with services(Settings.load({"BACKDROP_STATE": str(self.state)}), Console(quiet=True)):
            yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workshop, Ran]]:
    """One whole run of the small line that all tests of this folder look at."""
    workshop = Workshop(tmp_path_factory.mktemp("line") / "state")
    ran = workshop.run("run")
    assert ran.code == 0, ran.output
    yield workshop, ran
    workshop.run("clean")


@pytest.fixture(scope="module")
def kept_up(finished: tuple[Workshop, Ran]) -> Iterator[None]:
    """The services of the finished line run for all tests of a module, instead of for each of its commands."""
    workshop, _ = finished
    with workshop.kept_up():
        yield


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """An empty one."""
    fresh = Workshop(tmp_path / "state")
    yield fresh
    fresh.run("clean")


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a real browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        found = browser.new_page(viewport={"width": 1400, "height": 1000})
        found.set_default_timeout(PATIENCE_MS)
        yield found
        browser.close()
