"""Drops drawn graphics (logos, slides, charts) and collages, and notes photographs mounted in a frame or between bars.

A drawing is made of even areas with hard edges; a photograph of a product on a plain backdrop has even areas too, but
the product itself is made of soft tones. Seams and borders are exact to the pixel over the whole picture, as no door
or horizon is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from assets.curation.filters.base import DROP, KEEP, UNSURE, Judgement, Picture, means
from assets.curation.filters.settings import GraphicsSection

_EVEN = 2  # grey levels within 3 × 3 pixels: what JPEG leaves of an area of one colour
_HARD = 48  # grey levels within 3 × 3 pixels: an edge that was drawn, or as sharp as one
_RINGING = 9  # pixels of the small plane around a hard edge that compression and smoothing of edges touch
_LEAST = 96  # pixels of the small plane: with fewer, a shaded product has too few soft tones to tell from a drawn one
_OTHER = 16  # grey levels from the commonest tone: another colour
_SEAM = 10  # grey levels: a step that unrelated pictures side by side show nearly everywhere
_SHARP = 3.0  # times the step of the rows or columns two pixels further
_PLAIN = 4  # grey levels around an even border or gutter: what compression adds to one colour
_INNER = 12  # grey levels from a border to the picture inside
_SMEARED = 4  # rows over which compression and scaling smear a border's edge
_STRAIGHT = 0.9  # of a border's length that is even and ends in one line


@dataclass(frozen=True)
class GraphicsFilter:
    """Score: the worst of measure / threshold; 1 is where it starts to drop."""

    section: GraphicsSection
    name: str = "graphics"
    version: str = "1"

    def judge(self, picture: Picture) -> Judgement:
        section, small = self.section, picture.small
        even, soft, others = tones(small)
        drawn = min(even / section.min_even, section.max_soft / max(soft, 1e-4), others / section.min_others)
        if min(small.shape) < _LEAST:
            drawn = 0.0
        border = border_share(picture.grey)
        seams = seam_share(picture)
        found = [
            (
                min(drawn, 9.0),
                f"graphic: {even:.0%} of it is even colour, {soft:.1%} soft tones",
            ),
            (border / section.max_border, f"border: even bars take {border:.0%} of two opposite sides"),
            (seams / section.min_seam, f"collage: seams run along {seams:.0%} of the picture's width and height"),
        ]
        score, reason = max(found)
        score = round(score, 4)
        shares = {"even": even, "soft": soft, "others": others, "border": border, "seams": seams}
        detail = {name: round(value, 4) for name, value in shares.items()}
        if score >= 1:
            return Judgement(self.name, self.version, DROP, score, reason, detail)
        if border >= section.note_border:
            # The photograph inside may be fine: kept, and shown among the borderline cases.
            return Judgement(self.name, self.version, UNSURE, score, found[1][1], detail)
        return Judgement(self.name, self.version, KEEP, score, "", detail)


def tones(plane: np.ndarray) -> tuple[float, float, float]:
    """Shares of a luma plane: even areas; soft tones away from hard edges; even areas that differ from the commonest
    tone."""
    window = np.ones((3, 3), np.uint8)
    spread = cv2.subtract(cv2.dilate(plane, window), cv2.erode(plane, window))
    even = spread <= _EVEN
    near = cv2.dilate((spread >= _HARD).astype(np.uint8), np.ones((_RINGING, _RINGING), np.uint8)) > 0
    soft = ~even & ~near
    levels = np.bincount(plane[even], minlength=256)
    commonest = int(levels.argmax())
    around = slice(max(0, commonest - _OTHER), commonest + _OTHER + 1)
    others = int(levels.sum()) - int(levels[around].sum())
    return (float(even.mean()), float(soft.mean()), others / plane.size)


def border_share(plane: np.ndarray) -> float:
    """Even bars along two opposite sides, as a share of the side they take away; 0 where there are none."""
    return max(_bars(plane), _bars(cv2.transpose(plane)))


def _bars(plane: np.ndarray) -> float:
    top, bottom = _bar(plane), _bar(plane[::-1])
    return (top + bottom) / plane.shape[0] if top and bottom else 0.0


def _bar(plane: np.ndarray) -> int:
    """Rows of an even bar at the top that ends in a straight edge along most of the width; 0 where there is none."""
    height = plane.shape[0]
    if height < 2 * _SMEARED:
        return 0
    first = int(np.median(plane[0]))
    if _plain_share(plane[0], first) < _STRAIGHT:
        return 0
    away = cv2.absdiff(plane[: height // 2], np.full_like(plane[: height // 2], first)) > _INNER
    ends = np.where(away.any(axis=0), away.argmax(axis=0), height)
    rows = int(np.median(ends))
    if not 0 < rows < height // 2 or _plain_share(plane[max(0, rows - _SMEARED)], first) < _STRAIGHT:
        return 0
    # A backdrop ends where the product begins, column by column; a bar ends everywhere in the same row.
    return rows if float(np.mean(np.abs(ends - rows) <= 1)) >= _STRAIGHT else 0


def _plain_share(row: np.ndarray, level: int) -> float:
    return float(np.mean(np.abs(row.astype(np.int16) - level) <= _PLAIN))


def seam_share(picture: Picture) -> float:
    """How far a collage's seams run. Without gutters, the shorter of the best vertical and the best horizontal one,
    for one alone may be a horizon or a door; an even gutter between two seams needs no other across it."""
    if min(picture.grey.shape) < _LEAST:
        return 0.0
    seams, gutters = [], []
    for axis, (step, mean) in enumerate(zip(picture.steps, picture.mean_steps, strict=True)):
        # The share of rows (columns) in which each column (row) steps by `_SEAM` or more.
        share = means(cv2.threshold(step, _SEAM - 1, 1, cv2.THRESH_BINARY)[1], axis)
        seams.append(_seam(share, mean))
        gutters.append(_gutter(picture.grey, axis, share))
    return max(min(seams), *gutters)


def _seam(share: np.ndarray, mean: np.ndarray) -> float:
    """The largest share where the mean step is sharp; places in the outer tenth are borders, not seams."""
    beside = np.minimum(np.roll(mean, 3), np.roll(mean, -3))
    edge = len(share) // 10
    places = (mean > _SHARP * np.maximum(beside, 1.0))[edge:-edge]
    return float(share[edge:-edge][places].max(initial=0.0))


def _gutter(plane: np.ndarray, axis: int, share: np.ndarray) -> float:
    """The share that steps on both sides of a column (axis 0) or row (axis 1) that is even from end to end."""
    lightest, darkest = plane.max(axis=axis), plane.min(axis=axis)
    even = np.concatenate([[False], lightest - darkest <= 2 * _PLAIN, [False]])
    starts, ends = np.flatnonzero(even[1:] & ~even[:-1]), np.flatnonzero(even[:-1] & ~even[1:])
    edge, best = len(lightest) // 10, 0.0
    for start, end in zip(starts, ends, strict=True):
        if start >= edge and end <= len(lightest) - edge and end - start >= 2:
            # A compressed or scaled edge takes up to three columns.
            before, after = share[max(0, start - 4) : start].max(initial=0), share[end - 1 : end + 3].max(initial=0)
            best = max(best, float(min(before, after)))
    return best
