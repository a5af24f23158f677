"""`make ui` in a real browser: the pages show what the line made, and an asset is materialised from its page."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from infra.processes import free_port
from tests.line.conftest import Ran, Workshop

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.line,
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync".split()
)
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def served(finished: tuple[Workshop, Ran]) -> Iterator[tuple[str, str]]:
    """(Dagster's address, MLflow's address) while `ui` runs."""
    workshop, _ = finished
    port = free_port()
    process = workshop.start("ui", "--port", str(port))
    try:
        dagster = f"http://127.0.0.1:{port}"
        wait_for(f"{dagster}/server_info", process)
        assert process.stdout is not None
        mlflow = ""
        while not mlflow:
            line = process.stdout.readline()
            assert line, "the command ended before it said where MLflow is"
            if line.startswith("MLflow"):
                mlflow = line.split()[-1]
        yield dagster, mlflow
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
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


def test_a_person_sees_the_line_and_materialises_an_asset(served: tuple[str, str]) -> None:
    from playwright.sync_api import expect, sync_playwright

    dagster, mlflow = served
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)

        page.goto(f"{dagster}/assets/pretrained_dit")
        expect(page.get_by_text("Loss", exact=True).first).to_be_visible(timeout=PATIENCE_MS)
        expect(page.get_by_text("Samples", exact=True).first).to_be_visible()
        expect(page.get_by_text("The foundation model:", exact=False).first).to_be_visible()
        expect(page.get_by_text("MLflow run", exact=True).first).to_be_visible()
        seen(page, f'img[src^="{mlflow}"]')  # at once, without a click

        page.goto(f"{dagster}/assets/filtered_shards")
        expect(page.get_by_text("share_kept", exact=True).first).to_be_visible()
        page.get_by_text("Show markdown", exact=False).first.click()
        seen(page, 'img[src^="data:image/png;base64,"]')

        page.goto(f"{dagster}/assets/evaluation_report?view=checks&checkDetail=wall_colour")
        expect(page.get_by_text("The wall has the colour that the caption names.").first).to_be_visible()
        expect(page.get_by_text("of the held-out pictures do; at least 90% must.", exact=False).first).to_be_visible()
        seen(page, f'img[src^="{mlflow}"]')
        page.goto(f"{dagster}/assets/evaluation_report")
        report = page.locator(f'a[href^="{mlflow}"][href$="/artifacts/report.html"]').first
        page.goto(str(report.get_attribute("href")))
        expect(page.frame_locator("iframe").get_by_text("what this engine can do").first).to_be_visible()

        page.goto(f"{dagster}/assets/training_set")
        with page.expect_response(lambda answer: "mutation" in (answer.request.post_data or "")) as launched:
            page.get_by_role("button", name="Materialize").first.click()
        assert launched.value.ok
        assert ended(page, dagster) == "SUCCESS"
        page.goto(f"{dagster}/runs")
        expect(page.get_by_text("training_set").first).to_be_visible(timeout=PATIENCE_MS)

        page.goto(f"{mlflow}/#/experiments")
        expect(page.get_by_text("backdrop/pretrained_dit")).to_be_visible(timeout=PATIENCE_MS)
        page.goto(f"{mlflow}/#/models/backdrop-engine")
        expect(page.get_by_text("challenger").first).to_be_visible(timeout=PATIENCE_MS)
        page.goto(f"{mlflow}/#/models/backdrop-engine/versions/1")
        expect(page.get_by_role("heading", name="Checks missed")).to_be_visible(timeout=PATIENCE_MS)
        browser.close()


def seen(page: Page, selector: str) -> None:
    """A picture that has been loaded."""
    picture = page.locator(selector).first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("one => one.complete && one.naturalWidth > 100", arg=picture.element_handle())


def ended(page: Page, dagster: str) -> str:
    """How the newest run ended, as Dagster's own interface tells the page."""
    query = "{ runsOrError(limit: 1) { ... on Runs { results { status } } } }"
    deadline = time.monotonic() + 120
    status = ""
    while time.monotonic() < deadline and status not in {"SUCCESS", "FAILURE", "CANCELED"}:
        time.sleep(1)
        answer = page.request.post(f"{dagster}/graphql", data={"query": query}).json()
        status = answer["data"]["runsOrError"]["results"][0]["status"]
    return status
