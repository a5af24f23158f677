"""The studio's page in a real browser, at a desk and on a phone: upload, mask, words, candidates, comparison."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from infra.images import decode, encode_jpeg
from tests.deploy.studio.conftest import Playing
from tests.deploy.studio.pictures import photograph

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync".split()
)
PATIENCE_MS = 60_000
SIZES = {"desk": (1400, 1000, "light"), "phone": (360, 740, "dark")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()


@pytest.fixture(params=sorted(SIZES))
def page(request: pytest.FixtureRequest, browser: Browser, playing: Playing, tmp_path: Path) -> Iterator[Page]:
    """The studio's page. What it complains of fails the test; where STUDIO_SHOTS names a folder, its end is kept."""
    width, height, scheme = SIZES[request.param]
    settings: dict[str, Any] = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    context = browser.new_context(**settings)
    found = context.new_page()
    found.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    found.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: said.append(str(error)))
    (tmp_path / "mug.jpg").write_bytes(encode_jpeg(photograph(400, 300)[0]))
    found.goto(playing.studio.url)
    yield found
    if os.environ.get("STUDIO_SHOTS"):
        name = request.node.name.replace("[", "-").replace("]", "")
        found.screenshot(path=f"{os.environ['STUDIO_SHOTS']}/{name}.png", full_page=True)
    assert said == []
    assert found.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways to
    context.close()


def test_a_photograph_gets_a_background(page: Page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    expect(page.get_by_text("Champion: version 1")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    page.set_input_files("#file", tmp_path / "mug.jpg")
    page.get_by_role("button", name="Automatic mask").click()
    expect(page.get_by_role("status")).to_contain_text("Found a product")
    box = page.locator("#easel").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.up()
    page.get_by_label("What is to be painted").fill("a box on a blue floor, 青い床")
    page.get_by_label("Compare with the challenger").check()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("heading", name="Champion · version 1")).to_be_visible()
    expect(page.get_by_role("heading", name="Challenger · version 2")).to_be_visible()
    expect(page.locator(".candidates img")).to_have_count(8)
    expect(page.get_by_text("kept pixels are the input's").first).to_be_visible()
    expect(page.locator("#latency")).to_contain_text("engine")
    picture = page.locator(".candidates img").first
    assert picture.evaluate("image => image.naturalWidth") == 400
    with page.expect_download() as loaded:
        page.get_by_role("link", name="Download candidate 1 of version 1").click()
    made = decode(Path(loaded.value.path()).read_bytes())
    sent = decode((tmp_path / "mug.jpg").read_bytes())
    inside = np.zeros(made.shape[:2], bool)
    inside[140:180, 180:220] = True  # where the brush went
    assert np.array_equal(made[inside], sent[inside])


def test_everything_works_by_keyboard(page: Page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.set_input_files("#file", tmp_path / "mug.jpg")
    page.get_by_role("tab", name="Background").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Fill")).to_be_focused()
    expect(page.get_by_role("tab", name="Fill")).to_have_attribute("aria-selected", "true")
    page.locator("#easel").focus()
    for key in ("+", "+", "Shift+ArrowUp", "Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    page.get_by_label("What is to be painted").focus()
    page.keyboard.type("a red box")
    page.locator("#k").select_option("2")
    page.get_by_role("button", name="Generate").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".candidates img")).to_have_count(2)
    page.get_by_role("tab", name="Expand").click()
    expect(page.get_by_role("button", name="Automatic mask")).to_be_hidden()
    page.get_by_label("Shape").select_option("1:1")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".candidates img").first).to_have_js_property("naturalHeight", 400)


def test_what_goes_wrong_is_said(page: Page, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    (tmp_path / "words.png").write_bytes(b"no picture at all")
    page.set_input_files("#file", tmp_path / "words.png")
    expect(page.get_by_role("status")).to_contain_text("cannot be shown as a picture")
    page.get_by_role("button", name="Sample 1").click()
    expect(page.locator("#facts")).to_contain_text("32 × 32")
    page.get_by_role("tab", name="Erase").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".candidates img")).to_have_count(4)
    page.get_by_label("What is to be painted").fill("x" * 1001)
    expect(page.get_by_text("1001 of 1000 characters")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()


def test_what_goes_is_marked_with_a_rim_and_what_stays_without(page: Page) -> None:
    from playwright.sync_api import expect

    def marked() -> int:
        return int(
            page.evaluate(
                "[...mask.getContext('2d').getImageData(0, 0, mask.width, mask.height).data]"
                ".filter((level, at) => at % 4 === 3 && level >= 128).length"
            )
        )

    def until(said: str) -> None:
        deadline = time.monotonic() + 10
        while not page.evaluate(said):
            assert time.monotonic() < deadline, said
            page.wait_for_timeout(50)

    page.get_by_role("button", name="Sample 1").click()
    expect(page.get_by_role("button", name="Sample 1")).to_have_attribute("aria-pressed", "true")
    stays = marked()
    page.get_by_role("tab", name="Erase").click()
    until("state.grown")
    assert marked() > stays > 0
    page.get_by_role("tab", name="Background").click()
    until("!state.grown")
    assert marked() == stays
    page.locator("#easel").focus()
    page.keyboard.press("Space")
    drawn = marked()
    page.get_by_role("tab", name="Erase").click()
    page.wait_for_timeout(300)
    assert marked() == drawn  # what was drawn by hand is left alone


def test_a_number_out_of_sight_stops_nothing(page: Page) -> None:
    from playwright.sync_api import expect

    page.get_by_role("button", name="Sample 1").click()
    page.get_by_role("tab", name="Expand").click()
    page.get_by_label("Shape").select_option("margins")
    page.get_by_label("Left").fill("-5")
    page.get_by_label("Shape").select_option("16:9")
    page.locator("#k").select_option("1")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".candidates img")).to_have_count(1)
