"""Dagster's pages of the line in a browser: an asset's with its pictures, and each with 10,000 delivery partitions.

A page counts as open when what it is visited for can be seen. Its time is the median of a few visits, the first one
left out: that one loads Dagster's own scripts.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.processes import free_port
from infra.settings import REPOSITORY
from tests.benchmarks.promise import Promise

if TYPE_CHECKING:
    from playwright.sync_api import Page

PARTITIONS, MATERIALISED, VISITS = 10_000, 1_000, 4
PICTURES_S, PAGE_S = 2.0, 3.0
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
#: Page → what is looked for there: text, or a selector after "css=".
PAGES = {
    "/assets": "filtered_shards",
    "/asset-groups": "css=canvas, svg",
    "/assets/filtered_shards?view=partitions": "delivery-00",
    "/assets/raw_images": "raw_images",
    "/runs": "css=a[href^='/runs/']",
    "/automation": "watch_deliveries",
}
FILL = f"""
import dagster as dg
names = [f"delivery-{{index:05d}}" for index in range({PARTITIONS})]
with dg.DagsterInstance.get() as instance:
    instance.add_dynamic_partitions("deliveries", names)
    for name in names[:{MATERIALISED}]:
        instance.report_runless_asset_event(dg.AssetMaterialization("filtered_shards", partition=name))
"""


def promises() -> Iterator[Promise]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        print("not measured: Dagster's pages (no chromium on PATH)")
        return
    base = Path(tempfile.mkdtemp(prefix="backdrop-bench-"))
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("BACKDROP_", "DAGSTER_"))}
    environment = {**mine, "BACKDROP_STATE": str(base / "state"), "BACKDROP_PRESET": "tiny"}
    command = [sys.executable, "-m", "orchestration.cli"]
    given: dict[str, Any] = {"cwd": REPOSITORY, "env": environment}
    try:
        subprocess.run([*command, "run"], check=True, **given)
        port = free_port()
        served = subprocess.Popen([*command, "ui", "--port", str(port)], **given)
        try:
            address = f"http://127.0.0.1:{port}"
            answering(address, served)
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                page.set_default_timeout(60_000)
                taken = opened(page, f"{address}/assets/pretrained_dit", "Samples")
                yield Promise("an asset's page with pictures", taken, PICTURES_S, "s", at_least=False)
                fill(environment, base / "state")
                for path, sought in PAGES.items():
                    taken = opened(page, address + path, sought)
                    yield Promise(f"{path} with {PARTITIONS:,} deliveries", taken, PAGE_S, "s", at_least=False)
                browser.close()
        finally:
            served.terminate()
            served.wait(60)
    finally:
        subprocess.run([*command, "clean"], check=False, **given)
        shutil.rmtree(base, ignore_errors=True)


def fill(environment: dict[str, str], state: Path) -> None:
    """Partitions of deliveries that nobody has, some of them materialised, beside the line's own."""
    from rich.console import Console

    from infra.settings import Settings
    from orchestration.services import services

    with services(Settings.load(environment), Console(quiet=True)) as endpoints:
        subprocess.run([sys.executable, "-c", FILL], check=True, cwd=state, env={**environment, **endpoints})


def opened(page: Page, address: str, sought: str) -> float:
    """Seconds until `sought` can be seen, the median of all visits but the first."""
    taken = []
    for _ in range(VISITS):
        page.goto("about:blank")
        began = time.perf_counter()
        page.goto(address, wait_until="commit")
        there = page.locator(sought.removeprefix("css=")) if sought.startswith("css=") else page.get_by_text(sought)
        there.first.wait_for(state="visible")
        taken.append(time.perf_counter() - began)
    print(f"{address.partition('//')[2].partition('/')[2]}: {', '.join(f'{one:.2f}' for one in taken)} s", flush=True)
    return statistics.median(taken[1:])


def answering(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/server_info", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("Dagster's page did not come up")


if __name__ == "__main__":
    for promise in promises():
        print(promise)
