"""Scores a batch of generated catalogue backgrounds against what their captions asked for.

Measured on the generated picture before compositing, with the true wall and floor masks. The same function
scores teacher, student, baselines and the true pictures (which bounds what the probes themselves can tell).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.metrics.colour import region_colour
from evaluation.metrics.geometry import FLOOR_LINE_TOLERANCE, floor_line, shadow_side
from evaluation.metrics.identity import masked_l1
from infra.errors import BackdropError
from infra.images import BadImage, decode

PRODUCT, WALL, FLOOR, SHADOW = range(4)
"""Values of a regions picture; SHADOW is floor that the light does not reach."""

METRICS = ("wall_colour", "floor_colour", "floor_line", "shadow_side", "masked_l1")


def regions_of(attributes: Mapping[str, Any]) -> np.ndarray:
    """The truth that a held-out sample carries: uint8 (S, S) of `PRODUCT`, `WALL`, `FLOOR`, `SHADOW`.

    Raises:
        BackdropError: no or unreadable regions, that is, not a held-out sample of the catalogue.
    """
    encoded = attributes.get("regions")
    if not encoded:
        raise BackdropError(
            f"a sample without true regions cannot be scored (attributes: {', '.join(sorted(attributes))})",
            "score held-out samples of the sample catalogue",
        )
    try:
        return np.ascontiguousarray(decode(base64.b64decode(encoded, validate=True))[..., 0])
    except (binascii.Error, BadImage) as error:
        raise BackdropError(f"the true regions of a sample are unreadable: {error}") from None


def score(
    generated: np.ndarray,
    truth: np.ndarray,
    products: np.ndarray,
    regions: np.ndarray,
    attributes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """How well generated pictures do what was asked.

    Args:
        generated: uint8 (N, H, W, 3), before compositing.
        truth: uint8 (N, H, W, 3), the catalogue's own pictures.
        products: bool (N, H, W).
        regions: uint8 (N, H, W), see `regions_of`.
        attributes: N mappings with wall, floor, floor_line, shadow_side and seamless.

    Returns:
        Arrays of N: `wall_colour`, `floor_colour`, `shadow_side` (1 right, 0 wrong), `floor_line` (1 within
        `FLOOR_LINE_TOLERANCE`, NaN for a seamless background, which has no line), `floor_line_error`
        (fraction of the height; 1 where no line was found), `masked_l1`; and `means`: each of `METRICS` → its
        mean over the samples it applies to, as a float (NaN if there are none).

    Raises:
        ValueError: arrays that do not fit each other.
    """
    count = len(attributes)
    if not generated.shape == truth.shape == (*products.shape, 3) or regions.shape != products.shape:
        raise ValueError(
            f"shapes differ: generated {generated.shape}, truth {truth.shape}, products {products.shape}, "
            f"regions {regions.shape}"
        )
    if len(generated) != count or count == 0:
        raise ValueError(f"{len(generated)} pictures and {count} attributes: need as many, and at least one")
    samples = [_score_one(*one) for one in zip(generated, truth, products, regions, attributes, strict=True)]
    result: dict[str, Any] = {key: np.array([s[key] for s in samples]) for key in samples[0]}
    result["means"] = {key: _mean(result[key]) for key in METRICS}
    return result


def _score_one(
    generated: np.ndarray,
    truth: np.ndarray,
    product: np.ndarray,
    regions: np.ndarray,
    attributes: Mapping[str, Any],
) -> dict[str, float]:
    wall, floor = regions == WALL, (regions == FLOOR) | (regions == SHADOW)
    error = _floor_line_error(generated, product, attributes)
    return {
        "wall_colour": float(region_colour(generated, wall, product) == attributes["wall"]),
        "floor_colour": float(region_colour(generated, floor, product) == attributes["floor"]),
        "floor_line_error": error,
        "floor_line": np.nan if np.isnan(error) else float(error <= FLOOR_LINE_TOLERANCE),
        "shadow_side": float(shadow_side(generated, floor, product) == attributes["shadow_side"]),
        "masked_l1": masked_l1(generated, truth, product),
    }


def _floor_line_error(generated: np.ndarray, product: np.ndarray, attributes: Mapping[str, Any]) -> float:
    if attributes["seamless"]:
        return float("nan")
    found = floor_line(generated, product)
    return 1.0 if found is None else abs(found - attributes["floor_line"])


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
