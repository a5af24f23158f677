"""Pictures side by side, each with words below it, as one PNG."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, MUTED, PAPER, EMPTY = (32, 33, 36), (112, 117, 122), (255, 255, 255), (232, 234, 237)
SMALL_BYTES = 100_000
"""What a small grid takes at most: it travels inside an event."""

_GAP = 10
_COLUMNS = 4  # of a small grid
_SIDES = (128, 112, 96, 80, 64, 48, 32)  # of its tiles, in pixels: the first with which it is small enough
_READABLE = 150  # pixels that a line of words has in a small grid, however small its pictures


@dataclass(frozen=True)
class Tile:
    """`picture`: uint8 (H, W, 3) of any shape, None where there is nothing to see."""

    picture: np.ndarray | None
    label: str


def grid(
    tiles: Sequence[Tile],
    *,
    columns: int = 10,
    box: tuple[int, int] = (112, 112),
    lines: int = 6,
    text: int = 9,
    heading: str = "",
) -> bytes:
    """PNG. Each picture is seen as a whole, as large as fits into the middle of its box.

    Args:
        box: width and height of a picture's place, in pixels.
        lines: of a label, at most; the rest of it is left out.
        text: the words' size in pixels.
        heading: a line above all.
    """
    return png(_drawn(tiles, columns, box, lines, text, heading))


def small_grid(tiles: Sequence[Tile], heading: str = "", shape: float = 1.0) -> bytes:
    """A handful of tiles as a PNG of at most `SMALL_BYTES`: what is hard to compress has fewer colours, and is smaller.

    Args:
        shape: width over height of a picture's place.
    """
    for made in _smaller_and_smaller(tiles, heading, shape):
        if len(made) <= SMALL_BYTES:
            break
    return made


def _smaller_and_smaller(tiles: Sequence[Tile], heading: str, shape: float) -> Iterator[bytes]:
    for side in _SIDES:
        box = (max(round(shape * side), _READABLE), side)
        picture = _drawn(tiles, _COLUMNS, box, 5, 12, heading)
        if side == _SIDES[0]:
            yield png(picture)
        # As good to look at here as the slow median cut, and about half its bytes; dithering would be noise again.
        yield png(picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))


def _drawn(
    tiles: Sequence[Tile], columns: int, box: tuple[int, int], lines: int, text: int, heading: str
) -> Image.Image:
    columns = max(1, min(columns, len(tiles)))
    (wide, tall), step = box, text + 2
    labels = [_wrapped(tile.label, wide, text, lines) for tile in tiles]
    used = max((len(label) for label in labels), default=0)
    cell = (wide + _GAP, tall + used * step + _GAP)
    top = _GAP + (step + 6 if heading else 0)
    across = max(columns * cell[0] + _GAP, font(text).getlength(heading) + 2 * _GAP)
    picture, draw = canvas(across, -(-len(tiles) // columns) * cell[1] + top)
    draw.text((_GAP, _GAP - 2), heading, MUTED, font(text))
    for k, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x, y = _GAP + (k % columns) * cell[0], top + (k // columns) * cell[1]
        draw.rectangle((x, y, x + wide - 1, y + tall - 1), EMPTY)
        if tile.picture is None:
            draw.text((x + wide / 2, y + tall / 2), "no picture", MUTED, font(12), anchor="mm")
        else:
            whole = _inside(tile.picture, box)
            picture.paste(whole, (x + (wide - whole.width) // 2, y + (tall - whole.height) // 2))
        for line, words in enumerate(label):
            draw.text((x, y + tall + 3 + line * step), words, INK, font(text))
    return picture


def canvas(width: float, height: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture and what draws on it."""
    picture = Image.new("RGB", (int(width), int(height)), PAPER)
    return picture, ImageDraw.Draw(picture)


@cache
def font(size: int) -> Any:
    """DejaVu Sans from matplotlib's files (nothing of it is imported): Pillow's own font lacks × and most scripts."""
    spec = importlib.util.find_spec("matplotlib")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def png(picture: Image.Image) -> bytes:
    """The picture's bytes, the same each time."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def _wrapped(label: str, width: int, text: int, lines: int) -> list[str]:
    """Lines of about `width` pixels: DejaVu's letters are on average 0.56 of their size wide."""
    return textwrap.wrap(label, int(width / (0.56 * text)), max_lines=lines, placeholder=" …")


def _inside(pixels: np.ndarray, box: tuple[int, int]) -> Image.Image:
    height, width = pixels.shape[:2]
    scale = min(box[0] / width, box[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
