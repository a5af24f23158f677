"""Drawn letters found by their strokes alone: the test for pictures too small to read, and the gate in front of
reading.

Text that a program drew has what print in a photograph rarely keeps: several letters on one exactly horizontal line, of
one height, evenly close, and of one colour, for neither perspective nor light touched them. The filter looks for such a
line among the thin bright and the thin dark structures of the picture and prefers to miss some over losing photographs.
"""

from __future__ import annotations

import cv2
import numpy as np

from assets.curation.filters.base import Picture

_FAINT = 12  # grey levels from pixel to pixel: a stroke at a tenth of full contrast, smoothed over two pixels
_READ = 512  # pixels of the longer side: what finer print needs is not readable
_LINE = (40, 7)  # pixels of such a picture: the smallest line of text
_WORK = 256  # pixels of the longer side at which letters are looked for
_EDGE = 48  # grey levels from pixel to pixel that count as a stroke's edge
_CONTRASTS = (60, 120)  # grey levels a stroke stands out: faint ones, and those that touch at the first level
_STROKE = 23  # pixels at _WORK: wider structures are no strokes
_HEIGHT = (0.045, 0.32)  # of the working size
_WIDEST = 1.5  # width over height of a letter
_ALIGNED = 0.09  # of the height: how exactly tops and feet agree
_FILL = (0.18, 0.75)  # of its box
_GAP = 0.6  # of the height, between neighbours
_COLOUR = 14.0  # grey levels between the letters of one line


def detailed(picture: Picture) -> bool:
    """Whether there is anywhere enough change along the rows for a line of letters: false in plain studio scenes.

    Letters of a stroke's width apart step at every stroke; in a line of text half of the pixels do. A third of the
    smallest legible line's surroundings is asked for, at steps as faint as a translucent watermark's.
    """
    if min(picture.grey.shape) < 16:
        return False
    _, steps = cv2.threshold(picture.steps[0], _FAINT - 1, 255, cv2.THRESH_BINARY)
    side = max(steps.shape)
    if side > _READ:
        scale = _READ / side
        steps = cv2.resize(steps, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return int(cv2.boxFilter(steps, -1, _LINE).max(initial=0)) >= 0.3 * 255


def worth_reading(picture: Picture) -> bool:
    """Whether there may be text: fine strokes anywhere, or a few large letters in a line."""
    return detailed(picture) or longest_line(picture.pixels) >= 2


def longest_line(image: np.ndarray) -> int:
    """Letters in the longest drawn line of text; 0 where nothing looks like letters."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if not _busy(grey):
        return 0
    scale = _WORK / max(grey.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=method)
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (_STROKE, _STROKE))
    bright = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, kernel)
    dark = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel)
    return max(_line_in(strokes, grey, level) for strokes in (bright, dark) for level in _CONTRASTS)


def _busy(grey: np.ndarray) -> bool:
    """Whether any row has the edges of three letters: what most clean pictures of plain scenes have not."""
    small = grey if max(grey.shape) <= _WORK else cv2.resize(grey, (_WORK, _WORK), interpolation=cv2.INTER_AREA)
    steps = np.abs(np.diff(small.astype(np.int16), axis=1)) > _EDGE
    return int(steps.sum(axis=1).max(initial=0)) >= 6


def _line_in(strokes: np.ndarray, grey: np.ndarray, contrast: int) -> int:
    """Most letters on one line among the components of a top-hat or black-hat picture."""
    mask = (strokes >= contrast).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 3:
        return 0
    boxes = stats[1:]
    size = max(grey.shape)
    w, h, area = boxes[:, 2], boxes[:, 3], boxes[:, 4]
    # A letter leaves part of its box empty; a window or a stripe fills it.
    fill = area / (w * h)
    upright = (h >= _HEIGHT[0] * size) & (h <= _HEIGHT[1] * size) & (w <= _WIDEST * h)
    letter = upright & (fill >= _FILL[0]) & (fill <= _FILL[1])
    index = np.flatnonzero(letter)
    if len(index) < 3 or len(index) > 400:
        return 0
    levels = np.array([_level(grey, labels, boxes[i], i + 1) for i in index])
    boxes = boxes[index]
    runs = [_run(boxes, levels, anchor) for anchor in range(len(boxes))]
    in_lines = sum(run >= 3 for run in runs)
    # Three letters alone are a weak sign; where most of what looks like a letter stands in such lines, a strong one.
    return max(*runs, in_lines if 2 * in_lines >= len(runs) else 0)


def _level(grey: np.ndarray, labels: np.ndarray, box: np.ndarray, label: int) -> float:
    """The grey level of a component's inner pixels."""
    x, y, w, h = box[:4]
    patch = labels[y : y + h, x : x + w] == label
    return float(np.median(grey[y : y + h, x : x + w][patch]))


def _run(boxes: np.ndarray, levels: np.ndarray, anchor: int) -> int:
    """Letters that share the anchor's top, foot and colour and follow each other closely, the anchor among them."""
    x, y, w, h = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]
    height = h[anchor]
    slack = max(1.5, _ALIGNED * height)
    alike = (
        (np.abs(y - y[anchor]) <= slack)
        & (np.abs((y + h) - (y + h)[anchor]) <= slack)
        & (np.abs(levels - levels[anchor]) <= _COLOUR)
    )
    members = np.flatnonzero(alike)
    members = members[np.argsort(x[members], kind="stable")]
    place = int(np.flatnonzero(members == anchor)[0])
    run = 1
    for step in (1, -1):
        at = place
        while 0 <= at + step < len(members):
            left, right = sorted((members[at], members[at + step]), key=lambda k: x[k])
            if x[right] - (x[left] + w[left]) > _GAP * height:
                break
            run += 1
            at += step
    return run
