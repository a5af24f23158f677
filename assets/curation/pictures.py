"""The pictures of a filtered delivery: the funnel, what was dropped and why, and masks to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from infra.tiles import INK, MUTED, Tile, canvas, font, grid, png

_BAR, _LOST = (66, 103, 178), (219, 130, 118)


def funnel_chart(funnel: Sequence[dict[str, Any]], title: str) -> bytes:
    """Horizontal bars, one per filter: what is left (blue) and what it dropped (red). PNG."""
    row, left, width = 34, 150, 620
    height = 52 + row * (len(funnel) + 1)
    picture, draw = canvas(left + width + 130, height)
    draw.text((16, 12), f"What was kept of {title}", INK, font(18))
    total = max(1, funnel[0]["seen"] if funnel else 1)
    for k, step in enumerate([{"filter": "delivered", "dropped": 0, "left": total, "seen": total}, *funnel]):
        y = 46 + row * k
        rest, lost = round(width * step["left"] / total), round(width * step["dropped"] / total)
        draw.text((left - 10, y + 12), step["filter"], INK, font(14), anchor="rm")
        draw.rectangle((left, y + 2, left + rest, y + 22), _BAR)
        if step["dropped"]:
            draw.rectangle((left + rest, y + 2, left + rest + max(lost, 2), y + 22), _LOST)
        label = f"{step['left']:,}" + (f"  (−{step['dropped']:,})" if step["dropped"] else "")
        draw.text((left + rest + max(lost, 2) + 8, y + 12), label, MUTED, font(13), anchor="lm")
    return png(picture)


def dropped_grid(examples: Sequence[tuple[np.ndarray | None, str, str]]) -> bytes:
    """Thumbnails of dropped files with the reason below; files that are no picture are grey. PNG."""
    return grid([Tile(thumb, f"{reason} [{name}]") for thumb, name, reason in examples])


def mask_grid(examples: Sequence[tuple[np.ndarray | None, str]]) -> bytes:
    """Thumbnails with a label below. PNG."""
    return grid([Tile(thumb, label) for thumb, label in examples])
