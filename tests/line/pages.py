"""`backdrop ui` as a process, its three pages, and what Dagster says of runs that a page has launched."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync".split()
)
PATIENCE_MS = 60_000
_ENDS = {"SUCCESS", "FAILURE", "CANCELED"}


@dataclass(frozen=True)
class Pages:
    """Addresses."""

    dagster: str
    mlflow: str
    studio: str


@contextmanager
def pages_of(process: subprocess.Popen[str], port: int) -> Iterator[Pages]:
    """What `backdrop ui --port` serves, once all of it answers; ended with Ctrl-C."""
    try:
        _wait_for(f"http://127.0.0.1:{port}/server_info", process)
        found: dict[str, str] = {}
        assert process.stdout is not None
        while not {"Dagster", "MLflow", "Studio"} <= set(found):
            line = process.stdout.readline()
            assert line, "the command ended before it said where its pages are"
            name, _, address = line.partition(" ")
            found[name] = address.strip()
        yield Pages(found["Dagster"], found["MLflow"], found["Studio"])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=90)
        finally:
            process.kill()
            process.wait()


def newest_run(page: Page, dagster: str) -> str:
    """Its id; "" where nothing has run yet."""
    found = _runs(page, dagster)
    return str(found[0]["runId"]) if found else ""


def ended_well(page: Page, dagster: str, before: str) -> None:
    """Waits for a run that is newer than `before`, and for its end."""
    deadline = time.monotonic() + 180
    newest: dict[str, Any] = {"runId": before}
    while time.monotonic() < deadline:
        newest = next(iter(_runs(page, dagster)), newest)
        if newest["runId"] != before and newest["status"] in _ENDS:
            break
        time.sleep(1)
    assert newest["runId"] != before, "nothing was launched"
    assert newest["status"] == "SUCCESS", newest


def _runs(page: Page, dagster: str) -> list[dict[str, Any]]:
    query = "{ runsOrError(limit: 1) { ... on Runs { results { runId status } } } }"
    answer = page.request.post(f"{dagster}/graphql", data={"query": query}).json()
    found: list[dict[str, Any]] = answer["data"]["runsOrError"]["results"]
    return found


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the command ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer")
