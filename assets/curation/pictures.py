"""The pictures of a filtered delivery: the funnel, what was dropped and why, and masks to look at."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _MUTED, _BAR, _LOST, _PAPER = (32, 33, 36), (112, 117, 122), (66, 103, 178), (219, 130, 118), (255, 255, 255)
_TILE = 112
_COLUMNS = 10


def funnel_chart(funnel: Sequence[dict[str, Any]], title: str) -> bytes:
    """Horizontal bars, one per filter: what is left (blue) and what it dropped (red). PNG."""
    row, left, width = 34, 150, 620
    height = 52 + row * (len(funnel) + 1)
    picture, draw = _canvas(left + width + 130, height)
    draw.text((16, 12), f"What was kept of {title}", _INK, _font(18))
    total = max(1, funnel[0]["seen"] if funnel else 1)
    for k, step in enumerate([{"filter": "delivered", "dropped": 0, "left": total, "seen": total}, *funnel]):
        y = 46 + row * k
        rest, lost = round(width * step["left"] / total), round(width * step["dropped"] / total)
        draw.text((left - 10, y + 12), step["filter"], _INK, _font(14), anchor="rm")
        draw.rectangle((left, y + 2, left + rest, y + 22), _BAR)
        if step["dropped"]:
            draw.rectangle((left + rest, y + 2, left + rest + max(lost, 2), y + 22), _LOST)
        label = f"{step['left']:,}" + (f"  (−{step['dropped']:,})" if step["dropped"] else "")
        draw.text((left + rest + max(lost, 2) + 8, y + 12), label, _MUTED, _font(13), anchor="lm")
    return _png(picture)


def dropped_grid(examples: Sequence[tuple[np.ndarray | None, str, str]]) -> bytes:
    """Thumbnails of dropped files with the reason below; files that are no picture are grey. PNG."""
    return _grid([(thumb, f"{reason} [{name}]") for thumb, name, reason in examples])


def mask_grid(examples: Sequence[tuple[np.ndarray | None, str]]) -> bytes:
    """Thumbnails with a label below. PNG."""
    return _grid(list(examples))


def _grid(tiles: Sequence[tuple[np.ndarray | None, str]]) -> bytes:
    columns = min(_COLUMNS, len(tiles))
    lines, step = 6, 11
    cell = (_TILE + 10, _TILE + lines * step + 10)
    rows = -(-len(tiles) // columns)
    picture, draw = _canvas(columns * cell[0] + 10, rows * cell[1] + 10)
    for k, (thumb, label) in enumerate(tiles):
        x, y = 10 + (k % columns) * cell[0], 10 + (k // columns) * cell[1]
        if thumb is None:
            draw.rectangle((x, y, x + _TILE, y + _TILE), (232, 234, 237))
            draw.text((x + _TILE / 2, y + _TILE / 2), "no picture", _MUTED, _font(12), anchor="mm")
        else:
            picture.paste(Image.fromarray(thumb).resize((_TILE, _TILE), Image.Resampling.BICUBIC), (x, y))
        for line, text in enumerate(textwrap.wrap(label, 20, max_lines=lines, placeholder=" …")):
            draw.text((x, y + _TILE + 3 + line * step), text, _INK, _font(9))
    return _png(picture)


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (int(width), int(height)), _PAPER)
    return picture, ImageDraw.Draw(picture)


@cache
def _font(size: int) -> Any:
    """DejaVu Sans from matplotlib's files (nothing of it is imported): Pillow's own font lacks × and most scripts."""
    spec = importlib.util.find_spec("matplotlib")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()
