"""From the model's answer to a file: enlarged, the photograph's own pixels on top, encoded, read back and compared."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deploy.studio.frames import Seen, bring_back, matched
from deploy.studio.tasks import Plan
from infra.bad_image import BadImage
from infra.images import decode, encode_png

log = logging.getLogger(__name__)

MEDIA = {"png": "image/png", "webp": "image/webp"}
WEBP_SIDE = 16_383
_ROWS = 512

Encode = Callable[[np.ndarray], bytes]


@dataclass(frozen=True)
class Finished:
    """A picture as a file. `violations`: how often a file's kept pixels were not the input's before this one's were."""

    data: bytes
    format: str
    violations: int


class NotKept(Exception):
    """No encoder gave a file whose kept pixels are the input's."""


def finish(plan: Plan, seen: Seen, made: np.ndarray, format: str) -> Finished:
    """The picture uint8 (S, S, 3) of the model as a file of the plan's size.

    The file is decoded again, and its kept pixels are compared with the input's; where one differs it is pasted and
    encoded anew, by the other encoder. Raises NotKept when that was in vain too.
    """
    picture = paste(plan, seen, made)
    other = "png" if format == "webp" else "webp"
    formats = [format, other] if max(plan.keep.shape) <= WEBP_SIDE else ["png", "png"]
    for violations, kind in enumerate(formats):
        data = ENCODERS[kind](picture)
        if same(data, plan):
            return Finished(data, kind, violations)
        log.error("kept pixels differ from the input's in a %s of %s: done again", kind, picture.shape)
        picture = paste(plan, seen, made)
    raise NotKept(f"the kept pixels of {picture.shape} differ from the input's in every format")


def paste(plan: Plan, seen: Seen, made: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): `made` at its place on the canvas, and every kept pixel the canvas's own."""
    answer = matched(made, seen) if plan.matched else made
    picture = plan.canvas.copy()
    part = picture[plan.part.slices]
    np.copyto(part, bring_back(answer, seen, plan.part), where=~plan.keep[plan.part.slices][..., None])
    return picture


def same(data: bytes, plan: Plan) -> bool:
    """Whether the file's kept pixels equal the canvas's."""
    try:
        back = decode(data, max_pixels=plan.pixels)
    except BadImage:
        return False
    if back.shape != plan.canvas.shape:
        return False
    strips = (slice(start, start + _ROWS) for start in range(0, len(back), _ROWS))  # copies of strips, not of it all
    return all(np.array_equal(back[rows][plan.keep[rows]], plan.canvas[rows][plan.keep[rows]]) for rows in strips)


def encode_webp(picture: np.ndarray) -> bytes:
    """uint8 (H, W, 3) → lossless WebP, in the encoder's fastest way."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


ENCODERS: dict[str, Encode] = {"png": encode_png, "webp": encode_webp}
