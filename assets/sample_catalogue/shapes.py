"""Signed distance functions of the eight products.

Each takes float32 arrays x (right), y (up, 0 = the floor) and z (away from the camera) around the product's
foot, its half width `r` and height `h`, all in one unit, and returns the distance to the surface (negative
inside). Primitives follow I. Quilez, "Distance functions" (https://iquilezles.org/articles/distfunctions/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray, np.ndarray, float, float], np.ndarray]


def _slab(q: np.ndarray, y: np.ndarray, r: float, low: float, high: float, round_: float) -> np.ndarray:
    """Upright rounded cylinder of radius r between two heights; q is the distance from its axis."""
    half = (high - low) / 2
    dq = q - (r - round_)
    dy = np.abs(y - (low + half)) - (half - round_)
    outside = np.sqrt(np.maximum(dq, 0) ** 2 + np.maximum(dy, 0) ** 2)
    return outside + np.minimum(np.maximum(dq, dy), 0) - round_


def _cone(q: np.ndarray, y: np.ndarray, r_low: float, r_high: float, low: float, high: float) -> np.ndarray:
    """Upright truncated cone (a bound near its rims, exact on its flank)."""
    slope = (r_low - r_high) / (high - low)
    flank = (q - (r_low - slope * (y - low))) / np.sqrt(1 + slope * slope)
    return np.maximum(flank, np.abs(y - (low + high) / 2) - (high - low) / 2)


def _smooth_min(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    blend = np.maximum(k - np.abs(a - b), 0) / k
    return np.minimum(a, b) - blend * blend * (k / 4)


def sphere(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    return np.sqrt(x * x + (y - r) ** 2 + z * z) - r


def box(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    soft = 0.05 * r
    dx = np.abs(x) - (r - soft)
    dy = np.abs(y - h / 2) - (h / 2 - soft)
    dz = np.abs(z) - (0.7 * r - soft)
    outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2 + np.maximum(dz, 0) ** 2)
    return outside + np.minimum(np.maximum(dx, np.maximum(dy, dz)), 0) - soft


def cylinder(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    return _slab(np.sqrt(x * x + z * z), y, r, 0.0, h, 0.06 * r)


def cone(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    return _cone(np.sqrt(x * x + z * z), y, r, 0.02 * r, 0.0, h)


def bottle(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    q = np.sqrt(x * x + z * z)
    body = _slab(q, y, r, 0.0, 0.6 * h, 0.3 * r)
    neck = _slab(q, y, 0.34 * r, 0.3 * h, 0.92 * h, 0.03 * r)
    cap = _slab(q, y, 0.42 * r, 0.88 * h, h, 0.06 * r)
    return np.minimum(_smooth_min(body, neck, 0.5 * r), cap)


def mug(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    # The body takes three quarters of the width, the handle the rest.
    body_r = 0.72 * r
    x = x + 0.2 * r
    q = np.sqrt(x * x + z * z)
    body = _slab(q, y, body_r, 0.0, h, 0.05 * r)
    hollow = _slab(q, y, 0.86 * body_r, 0.1 * h, 1.2 * h, 0.02 * r)
    ring = np.sqrt((x - body_r) ** 2 + (y - 0.5 * h) ** 2) - 0.3 * h
    handle = np.sqrt(ring * ring + z * z) - 0.1 * r
    return np.maximum(np.minimum(body, handle), -hollow)


def ring(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    tube = 0.26 * r
    around = np.sqrt(x * x + (y - r) ** 2) - (r - tube)
    return np.sqrt(around * around + z * z) - tube


def vase(x: np.ndarray, y: np.ndarray, z: np.ndarray, r: float, h: float) -> np.ndarray:
    t = np.clip(y / h, 0, 1)
    profile = r * (0.62 + 0.36 * np.sin(2.0 * np.pi * t**0.9 - 0.45) - 0.12 * t)  # belly, waist, then a lip
    flank = (np.sqrt(x * x + z * z) - profile) * 0.6  # the profile's slope makes it a bound only
    return np.maximum(flank, np.abs(y - h / 2) - h / 2)


@dataclass(frozen=True)
class Shape:
    """A product: its distance function, its height over its half width (range), and words for it."""

    distance: Distance
    height: tuple[float, float]
    words: tuple[str, ...]


SHAPES: dict[str, Shape] = {
    "sphere": Shape(sphere, (2.0, 2.0), ("sphere", "ball")),
    "box": Shape(box, (1.2, 2.2), ("box", "carton")),
    "cylinder": Shape(cylinder, (2.0, 3.0), ("cylinder", "can")),
    "cone": Shape(cone, (2.0, 2.8), ("cone",)),
    "bottle": Shape(bottle, (3.2, 4.0), ("bottle", "flask")),
    "mug": Shape(mug, (1.3, 1.7), ("mug", "cup")),
    "ring": Shape(ring, (2.0, 2.0), ("ring", "hoop")),
    "vase": Shape(vase, (2.6, 3.4), ("vase",)),
}
