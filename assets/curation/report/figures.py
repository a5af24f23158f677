"""The page's figures as inline SVG; colours are the page's CSS classes, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 8.0, 8.0, 26.0, 24.0
BINS = 40


@dataclass(frozen=True)
class Axis:
    """Where a histogram's bins lie; logarithmic ones are equal in ln(x)."""

    low: float
    high: float
    logarithmic: bool = False

    def lift(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.logarithmic else value

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end, never outside."""
        low, high = self.lift(self.low), self.lift(self.high)
        return min(1.0, max(0.0, (self.lift(value) - low) / ((high - low) or 1.0)))


def choose_axis(low: float, high: float, first: float, last: float, thresholds: Sequence[float]) -> Axis:
    """The axis that shows the bulk (first to last percentile) and every threshold with some air around it.

    Logarithmic where positive scores span more than a factor of fifty: blur does, aspect ratios do not.
    """
    start, end = min([first, *thresholds]), max([last, *thresholds])
    if start > 0 and end / start > 50 and low > 0:
        return Axis(start / 1.3, end * 1.3, True)
    # One value, or a handful of equal ones, still has a place to stand.
    air = 0.06 * (end - start) or 0.1 * max(abs(end), 1.0)
    return Axis(max(start - air, 0.0) if low >= 0 else start - air, end + air)


def histogram(counts: Sequence[tuple[int, int]], axis: Axis, thresholds: Sequence[tuple[float, str]]) -> str:
    """Bars of (dropped, not dropped) pictures by score, with a line and its name at each threshold."""
    most = max((dropped + rest for dropped, rest in counts), default=0)
    if not most:
        return ""
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    base, step = HEIGHT - BOTTOM, across / len(counts)
    parts = [f'<svg class="chart hist" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img">']
    for k, (dropped, rest) in enumerate(counts):
        y = base
        for kind, count in (("keep", rest), ("drop", dropped)):
            if count:
                # A single picture among a million still shows.
                tall = max(1.5, count / most * up)
                y -= tall
                x = LEFT + k * step
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(step - 1, 1):.1f}" height="{tall:.1f}">'
                    f"<title>{count:,} {'dropped' if kind == 'drop' else 'not dropped'}</title></rect>"
                )
    parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(
            f'<text x="{LEFT + share * across:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{_tick(axis, share)}</text>'
        )
    for value, label in thresholds:
        share = axis.place(value)
        x = LEFT + share * across
        anchor = "start" if share < 0.25 else "end" if share > 0.75 else "middle"
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{base}"/>')
        parts.append(f'<text class="limit" x="{x:.1f}" y="{TOP - 12}" text-anchor="{anchor}">{escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def two_distributions(before: Sequence[float], now: Sequence[float], names: Sequence[str]) -> str:
    """Paired bars: the share of each bin before and now."""
    most = max([*before, *now], default=0.0)
    if not most:
        return ""
    used = [k for k in range(len(names)) if before[k] or now[k]]
    first, last = used[0], used[-1] + 1
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    base, step = HEIGHT - BOTTOM, across / (last - first)
    parts = [f'<svg class="chart hist" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img">']
    wide = min(step * 0.4, 60.0)
    for k in range(first, last):
        middle = LEFT + (k - first + 0.5) * step
        for kind, share, x in (("before", before[k], middle - wide), ("keep", now[k], middle)):
            tall = share / most * up
            parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{base - tall:.1f}" width="{wide - 1:.1f}" height="{tall:.1f}">'
                f"<title>{escape(names[k])}: {share:.1%} {'before' if kind == 'before' else 'now'}</title></rect>"
            )
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(names[k])}</text>')
    parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    return "".join([*parts, "</svg>"])


def _tick(axis: Axis, share: float) -> str:
    low, high = axis.lift(axis.low), axis.lift(axis.high)
    value = low + share * (high - low)
    return number(math.exp(value) if axis.logarithmic else value)


def number(value: float) -> str:
    """A number as people write it."""
    if value == 0:
        return "0"
    if abs(value) < 0.001 or abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
