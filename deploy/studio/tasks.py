"""The four tasks as one: a canvas, which of its pixels stay as they are, and the part that the model looks at. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy.studio.fields import Asked, Task
from deploy.studio.frames import Box, around
from deploy.studio.limits import Limits
from deploy.studio.refusal import Refusal

#: A pixel of the model is a product's when half of it is, as in training. Elsewhere it is kept when all of it is:
#: what is to be painted over must not show through.
_HALF, _WHOLE = 0.5, 0.999


@dataclass(frozen=True)
class Plan:
    """What is to be done. `canvas` uint8 (H, W, 3) is the picture's final size; where `keep` bool (H, W) is True it
    goes through untouched.

    `part` is what the model sees; `whole` as in `frames.look`; `matched`: whether what is painted meets what is kept.
    """

    canvas: np.ndarray
    keep: np.ndarray
    part: Box
    whole: float
    matched: bool

    @property
    def pixels(self) -> int:
        """Of the picture that comes out."""
        return int(self.keep.size)


def plan_for(asked: Asked, photograph: np.ndarray, mask: np.ndarray | None, size: int, limits: Limits) -> Plan:
    """The plan for a photograph uint8 (H, W, 3) and the mask bool (H, W) that its task takes: of the product that stays
    (Background), of what is painted over (Fill, Erase); Expand needs none. `size` is the model's.

    Raises Refusal (422): no mask where one is needed, an empty one, one that leaves nothing to do, of another size.
    """
    if asked.task is Task.EXPAND:
        return _expanded(asked, photograph, limits)
    if mask is None:
        raise _mask(f"{asked.task.title()} needs a mask.", "Draw one, or have one made by /v1/mask.")
    if mask.shape != photograph.shape[:2]:
        raise _mask(
            f"The mask has {mask.shape[1]}×{mask.shape[0]} pixels, "
            f"the photograph, upright, {photograph.shape[1]}×{photograph.shape[0]}.",
            "Give a mask of the photograph's size, or of its shape.",
        )
    if not mask.any():
        raise _mask("The mask is empty: it marks nothing.", "Mark what it is about, or have a mask made by /v1/mask.")
    height, width = mask.shape
    if asked.task is Task.BACKGROUND:
        if mask.all():
            raise _mask("The mask covers everything: there is no background to paint.", "Mark the product alone.")
        return Plan(photograph, mask, Box(0, 0, height, width), _HALF, matched=False)
    return Plan(photograph, ~mask, around(mask, size), _WHOLE, matched=not mask.all())


def _mask(what: str, remedy: str) -> Refusal:
    return Refusal(422, "mask", what, remedy)


def _expanded(asked: Asked, photograph: np.ndarray, limits: Limits) -> Plan:
    height, width = photograph.shape[:2]
    left, top, right, bottom = asked.margins or margins_for(asked.ratio or (1, 1), height, width)
    tall, wide = top + height + bottom, left + width + right
    if (tall, wide) == (height, width):
        raise _wrong("The photograph has that shape already: there is nothing to expand.", "Give another ratio.")
    if tall > limits.expansion * height or wide > limits.expansion * width:
        raise _wrong(
            f"From {width}×{height} to {wide}×{tall} pixels is more than {limits.expansion:g} times.",
            "Give smaller margins, or a ratio nearer to the photograph's.",
        )
    if tall * wide > limits.pixels:
        raise Refusal(
            413,
            "too many pixels",
            f"Expanded it would have {tall * wide / 1e6:.1f} megapixels, {limits.pixels / 1e6:.0f} are allowed.",
            "Scale the photograph down first, or give smaller margins.",
        )
    canvas, keep = np.zeros((tall, wide, 3), np.uint8), np.zeros((tall, wide), bool)
    inside = Box(top, left, height, width).slices
    canvas[inside], keep[inside] = photograph, True
    return Plan(canvas, keep, Box(0, 0, tall, wide), _WHOLE, matched=True)


def _wrong(what: str, remedy: str) -> Refusal:
    return Refusal(422, "field", what, remedy)


def margins_for(ratio: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom margins of the smallest canvas of that ratio (width, height) around the picture."""
    wide, tall = max(width, round(height * ratio[0] / ratio[1])), max(height, round(width * ratio[1] / ratio[0]))
    if wide > width:
        tall = height
    else:
        wide = width
    left, top = (wide - width) // 2, (tall - height) // 2
    return left, top, wide - width - left, tall - height - top
