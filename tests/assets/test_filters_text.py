"""Text laid over a picture against print in it: the decision on made-up lines, and the reader on drawn ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from assets.curation.filters.base import DROP, KEEP, Picture
from assets.curation.filters.ocr import TextReader
from assets.curation.filters.overlay import Text, find_overlay
from assets.curation.filters.settings import TextSection
from assets.curation.filters.text_overlay import TextOverlayFilter
from assets.sample_catalogue.dirt import write_text
from assets.sample_catalogue.renderer import render

SIZE = 400
GREY = np.full((SIZE, SIZE, 3), 120, np.uint8)


def line(words: str, x: float, y: float, width: float, height: float = 0.05, angle: float = 0.0) -> Text:
    """A line centred at (x, y), shares of the picture."""
    box = cv2.boxPoints(((x * SIZE, y * SIZE), (width * SIZE, height * SIZE), angle))
    start = int(np.argmin(box.sum(axis=1)))
    corners = np.roll(box, -start, axis=0)
    if corners[1, 0] - corners[0, 0] < corners[3, 0] - corners[0, 0]:
        corners = corners[[0, 3, 2, 1]]
    return Text(corners.astype(np.float32), words, 0.99)


def tiles(words: str, angle: float) -> list[Text]:
    return [line(words, x, y, 0.2, 0.04, angle) for x in (0.2, 0.5, 0.8) for y in (0.25, 0.5, 0.75)]


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        ([line("I told you it was here", 0.5, 0.93, 0.6)], "along the foot"),
        ([line("WHEN THE", 0.5, 0.06, 0.5, 0.1)], "along the top"),
        ([line("photo by someone", 0.85, 0.96, 0.25)], "corner"),
        ([line("12 08 2009", 0.88, 0.95, 0.18)], "corner"),
        ([line("PREVIEW", 0.5, 0.5, 0.5, 0.12, 30)], "watermark"),
        ([line("SALE -50%", 0.4, 0.5, 0.4, 0.12)], "offer"),
        (tiles("pictures", 30), "repeated"),
    ],
)
def test_overlays(texts: list[Text], part: str) -> None:
    assert part in find_overlay(GREY, texts)


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [line("TRANSATLANTIC", 0.5, 0.3, 0.3), line("IPA", 0.5, 0.4, 0.1), line("330ml", 0.6, 0.7, 0.1, 0.05, 7)],
        [line("GILBERT", 0.5, 0.6, 0.8, 0.3)],
        [line("NYK LINE", 0.6, 0.63, 0.2)],
        [line("OKLA 1927", 0.36, 0.93, 0.2, 0.04, 11)],
        [line("EXIT", 0.2, 0.03, 0.06)],
        [line("6:02", 0.92, 0.95, 0.14)],
        tiles("Cola", 0),  # a shelf
        [line("see www.maker.example", 0.5, 0.5, 0.12)],
    ],
)
def test_print_is_no_overlay(texts: list[Text]) -> None:
    assert find_overlay(GREY, texts) == ""


@pytest.fixture(scope="module")
def check() -> TextOverlayFilter:
    return TextOverlayFilter(TextSection())


def scene(level: int) -> np.ndarray:
    """A product with room for a label before a wall in uneven light."""
    ground = np.linspace(level, level + 70, 480)[:, None, None] + np.linspace(0, 40, 480)[None, :, None]
    pixels = np.repeat(ground, 3, 2).astype(np.uint8)
    cv2.rectangle(pixels, (130, 120), (350, 420), (150, 60, 40), -1)
    return pixels


def written(pixels: np.ndarray, words: str, at: tuple[int, int], size: int, opacity: int = 255) -> np.ndarray:
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    font = ImageFont.truetype(str(path), size)
    base = Image.fromarray(pixels).convert("RGBA")
    layer = Image.new("RGBA", base.size, (0, 0, 0, 0))
    draw, black = ImageDraw.Draw(layer), (0, 0, 0, opacity)
    draw.text(at, words, (255, 255, 255, opacity), font, anchor="mm", stroke_width=1, stroke_fill=black)
    return np.asarray(Image.alpha_composite(base, layer).convert("RGB"))


def test_a_label_is_kept_and_a_subtitle_and_a_credit_are_not(check: TextOverlayFilter) -> None:
    labelled = written(written(scene(90), "Marmalade", (240, 220), 28), "Seville oranges", (240, 270), 18)
    kept = check.judge(Picture("0", labelled))
    assert kept.decision == KEEP, kept
    assert kept.score >= 1  # it was read
    for words, at, size, opacity in (
        ("and then he opened the jar", (240, 450), 24, 255),
        ("photo: j.smith", (405, 466), 16, 255),
        ("© picture agency", (240, 320), 40, 150),
    ):
        found = check.judge(Picture("0", written(labelled, words, at, size, opacity)))
        assert found.decision == DROP, (words, found)
        assert found.reason.startswith("text overlay: ")


def test_small_pictures_are_enlarged_before_they_are_read() -> None:
    credit = written(scene(40), "photo: j.smith", (390, 460), 18)
    small = cv2.resize(credit, (240, 240), interpolation=cv2.INTER_AREA)
    lines = TextReader(480).find(small)
    assert any(box.corners[:, 1].min() > 215 and box.corners.max() <= 240 for box in lines)


def test_most_drawn_texts_are_seen_in_tiny_pictures(check: TextOverlayFilter) -> None:
    rng = np.random.default_rng(0)
    pictures = [write_text(render(6, index, 64).image, rng) for index in range(60)]
    seen = sum(check.judge(Picture("0", picture)).decision == DROP for picture in pictures)
    assert seen >= 36


def test_reading_needs_no_download_and_one_thread() -> None:
    import rapidocr

    models = Path(rapidocr.__file__).parent / "models"
    assert len(list(models.glob("*det*.onnx"))) == 1
    options = TextReader(320)._detect.session.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
