"""`make ui` in a real browser: the pages show what the line made, and an asset is materialised from its page."""

from __future__ import annotations

from collections.abc import Iterator
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
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]


@pytest.fixture(scope="module")
def pages(finished: tuple[Workshop, Ran]) -> Iterator[Pages]:
    """While `ui` runs, which starts the services itself."""
    workshop, _ = finished
    port = free_port()
    with pages_of(workshop.start("ui", "--port", str(port)), port) as found:
        yield found


def test_a_person_sees_the_line_and_materialises_an_asset(pages: Pages, page: Page) -> None:
    from playwright.sync_api import expect

    dagster, mlflow = pages.dagster, pages.mlflow
    page.goto(f"{dagster}/assets/pretrained_dit")
    expect(page.get_by_text("Loss", exact=True).first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("Samples", exact=True).first).to_be_visible()
    expect(page.get_by_text("The foundation model:", exact=False).first).to_be_visible()
    expect(page.get_by_text("MLflow run", exact=True).first).to_be_visible()
    seen(page, f'img[src^="{mlflow}"]')  # at once, without a click

    page.goto(f"{dagster}/assets/filtered_shards")
    expect(page.get_by_text("share_kept", exact=True).first).to_be_visible()
    seen(page, f'img[src^="{mlflow}"]')

    page.goto(f"{dagster}/assets/evaluation_report?view=checks&checkDetail=wall_colour")
    expect(page.get_by_text("The wall has the colour that the caption names.").first).to_be_visible()
    expect(page.get_by_text("of the held-out pictures do; at least 90% must.", exact=False).first).to_be_visible()
    seen(page, f'img[src^="{mlflow}"]')
    page.goto(f"{dagster}/assets/evaluation_report")
    report = page.locator(f'a[href^="{mlflow}"][href$="/artifacts/report.html"]').first
    page.goto(str(report.get_attribute("href")))
    expect(page.frame_locator("iframe").get_by_text("what this engine can do").first).to_be_visible()

    page.goto(f"{dagster}/assets/training_set")
    before = newest_run(page, dagster)
    page.get_by_role("button", name="Materialize").first.click()
    ended_well(page, dagster, before)
    page.goto(f"{dagster}/runs")
    expect(page.get_by_text("training_set").first).to_be_visible(timeout=PATIENCE_MS)

    page.goto(f"{mlflow}/#/experiments")
    expect(page.get_by_text("backdrop/pretrained_dit")).to_be_visible(timeout=PATIENCE_MS)
    page.goto(f"{mlflow}/#/models/backdrop-engine")
    expect(page.get_by_text("challenger").first).to_be_visible(timeout=PATIENCE_MS)
    page.goto(f"{mlflow}/#/models/backdrop-engine/versions/1")
    expect(page.get_by_role("heading", name="Checks missed")).to_be_visible(timeout=PATIENCE_MS)


def seen(page: Page, selector: str) -> None:
    """A picture that has been loaded."""
    picture = page.locator(selector).first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("one => one.complete && one.naturalWidth > 100", arg=picture.element_handle())
