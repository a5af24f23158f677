"""A newcomer's path through the three pages, in a real browser, with nothing typed into a terminal.

See the graph, launch `filtered_shards` for a delivery and watch it, open its report, look at the checks, approve a
challenger and promote it, see the champion change in MLflow, try it in the studio, roll back.

The name puts it behind the other tests of the line, which look at the champion that the first run made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.processes import free_port
from tests.line.conftest import Ran, Workshop
from tests.line.pages import CHROMIUM, PATIENCE_MS, Pages, ended_well, newest_run, pages_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.line,
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
DELIVERY = "sample-tiny"


@pytest.fixture(scope="module")
def pages(finished: tuple[Workshop, Ran], kept_up: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """`ui`, where a version must be approved, with a second engine that nobody has approved yet."""
    workshop, _ = finished
    other = tmp_path_factory.mktemp("newcomer") / "other.yaml"
    other.write_text("distil: {steps: 9}\n")
    ran = workshop.run("run", "--config", str(other))
    assert ran.code == 0, ran.output
    port = free_port()
    with pages_of(workshop.start("ui", "--port", str(port), BACKDROP_APPROVAL="required"), port) as found:
        yield found


def test_from_the_graph_to_a_rollback(pages: Pages, page: Page) -> None:
    from playwright.sync_api import expect

    page.goto(f"{pages.dagster}/asset-groups")
    for group in ("data", "training", "shipping"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()

    launch_delivery(page, pages.dagster)
    report = delivery_report(page, pages.dagster)
    page.goto(report.as_uri())
    expect(page.get_by_text("duplicate", exact=False).first).to_be_visible()

    page.goto(f"{pages.dagster}/assets/filtered_shards?view=checks")
    expect(page.get_by_text("Checks (", exact=False)).to_be_visible()
    page.goto(f"{pages.dagster}/assets/evaluation_report?view=checks")
    for check in ("product_identity", "engine_parity", "gate"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible()

    studio_says(page, pages.studio, "Champion: version 1")
    run_job(page, pages.dagster, "approve", "ops: {approve_version: {config: {version: '2', reason: looked at it}}}")
    run_job(page, pages.dagster, "promote", "ops: {promote_version: {config: {version: '2', reason: it is nicer}}}")
    assert champion(page, pages.mlflow) == "2"
    page.goto(f"{pages.mlflow}/#/models/backdrop-engine")
    expect(page.get_by_text("champion", exact=False).first).to_be_visible()

    studio_says(page, pages.studio, "Champion: version 2")
    page.locator("#samples button").first.click()
    page.get_by_role("button", name="Automatic mask").click()
    expect(page.get_by_role("status")).not_to_have_text("")
    page.get_by_label("What is to be painted").fill("a mug in front of a green wall")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".candidates img")).to_have_count(4)
    expect(page.get_by_text("kept pixels are the input's").first).to_be_visible()

    run_job(page, pages.dagster, "rollback", "ops: {roll_back: {config: {reason: the first one was calmer}}}")
    assert champion(page, pages.mlflow) == "1"
    studio_says(page, pages.studio, "Champion: version 1")


def launch_delivery(page: Page, dagster: str) -> None:
    """By the button on the asset's page, for one partition; returns once Dagster shows that it went well."""
    from playwright.sync_api import expect

    page.goto(f"{dagster}/assets/filtered_shards")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_text(DELIVERY, exact=True).locator("visible=true").last.click()
    page.keyboard.press("Escape")
    before = newest_run(page, dagster)
    page.get_by_role("button", name="Launch 1 run").click()
    ended_well(page, dagster, before)
    page.goto(f"{dagster}/assets/filtered_shards?view=events")
    expect(page.get_by_text(DELIVERY).first).to_be_visible()


def delivery_report(page: Page, dagster: str) -> Path:
    """Where the asset's page says that the delivery's report lies."""
    page.goto(f"{dagster}/assets/filtered_shards")
    shown = page.get_by_text("report/index.html", exact=False).first
    shown.wait_for(state="visible")
    return Path("/" + shown.inner_text().split("/", 1)[1].strip())


def run_job(page: Page, dagster: str, job: str, config: str) -> None:
    """Through the job's launchpad."""
    page.goto(f"{dagster}/locations/orchestration.definitions/jobs/{job}/playground")
    editor = page.locator(".CodeMirror").first
    editor.wait_for(state="visible")
    page.get_by_text("No errors").first.wait_for(state="visible")  # the editor has been filled with the defaults
    editor.evaluate("(node, text) => node.CodeMirror.setValue(text)", config)
    page.wait_for_timeout(1500)  # Dagster checks what was typed after a pause
    before = newest_run(page, dagster)
    page.get_by_role("button", name="Launch Run").click()
    ended_well(page, dagster, before)


def studio_says(page: Page, studio: str, words: str) -> None:
    """The studio looks at the registry every other second; it may take 20."""
    from playwright.sync_api import expect

    page.goto(studio)
    expect(page.get_by_text(words)).to_be_visible(timeout=PATIENCE_MS)


def champion(page: Page, mlflow: str) -> str:
    url = f"{mlflow}/api/2.0/mlflow/registered-models/alias?name=backdrop-engine&alias=champion"
    return str(page.request.get(url).json()["model_version"]["version"])
