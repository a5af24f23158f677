"""Figures of the report as strings that need nothing beside them: pictures as data URIs, curves as inline SVG."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from infra.images import encode_jpeg, encode_png

#: Pictures up to this side are embedded without loss; above it JPEG keeps the page small.
LOSSLESS_SIDE = 128
WIDTH, HEIGHT = 440.0, 180.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 8.0, 8.0, 22.0

Point = tuple[float, float]


def picture(image: np.ndarray) -> str:
    """Data URI of a uint8 (H, W, 3) picture."""
    if max(image.shape[:2]) <= LOSSLESS_SIDE:
        return png(encode_png(image))
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, quality=90)).decode()


def png(data: bytes) -> str:
    """Data URI of an encoded PNG."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def cut_out(image: np.ndarray, product: np.ndarray) -> np.ndarray:
    """What the engine is given: the product on the checkerboard that stands for "nothing here".

    Args:
        image: uint8 (H, W, 3).
        product: bool (H, W), True on the product.
    """
    height, width = product.shape
    cell = max(2, height // 16)
    rows, columns = np.indices((height, width)) // cell
    board = np.where((rows + columns) % 2 == 0, 214, 240).astype(np.uint8)
    return np.where(product[..., None], image, board[..., None])


def line_chart(series: Mapping[str, Sequence[Point]], log_scale: bool = True) -> str:
    """An SVG line chart; its colours are the page's CSS classes, so that it follows light and dark.

    Args:
        series: name → (x, y) points. Points that are not finite are left out.
        log_scale: logarithmic y, used only where every y is positive.
    """
    clean = {
        name: [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in series.items()
    }
    clean = {name: points for name, points in clean.items() if points}
    everything = [point for points in clean.values() for point in points]
    if not everything:
        return ""
    logarithmic = log_scale and min(y for _, y in everything) > 0
    lift = math.log10 if logarithmic else float
    left, right = min(x for x, _ in everything), max(x for x, _ in everything)
    low, high = min(lift(y) for _, y in everything), max(lift(y) for _, y in everything)
    across, up = (right - left) or 1.0, (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - left) / across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (lift(y) - low) / up * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img">']
    for share in (0.0, 0.5, 1.0):
        y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        level = low + share * (high - low)
        label = _number(10**level if logarithmic else level)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
    for x, anchor in ((left, "start"), (right, "end")):
        parts.append(
            f'<text x="{place(x, everything[0][1])[0]:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_number(x)}</text>'
        )
    for index, (name, points) in enumerate(clean.items()):
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(x, y) for x, y in thin(points)))
        parts.append(f'<polyline class="s{index % 6}" points="{path}"><title>{escape(name)}</title></polyline>')
    return "".join([*parts, "</svg>"])


def thin(points: Sequence[Point], limit: int = 240) -> list[Point]:
    """At most `limit` points: means over equal runs, so that a thinned curve still shows the trend."""
    if len(points) <= limit:
        return list(points)
    groups = np.array_split(np.asarray(points, np.float64), limit)
    return [(float(x), float(y)) for x, y in (group.mean(axis=0) for group in groups)]


def _number(value: float) -> str:
    if value and (abs(value) < 0.001 or abs(value) >= 100_000):
        return f"{value:.0e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
