"""The twelve colour names of the sample catalogue and the CIELAB distance that tells them apart."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

PALETTE: dict[str, tuple[int, int, int]] = {
    "white": (236, 236, 232),
    "grey": (142, 144, 147),
    "black": (42, 42, 46),
    "red": (192, 38, 42),
    "orange": (235, 128, 36),
    "yellow": (240, 208, 62),
    "green": (60, 148, 72),
    "teal": (0, 152, 164),
    "blue": (34, 86, 192),
    "purple": (136, 54, 156),
    "pink": (240, 152, 182),
    "brown": (112, 70, 42),
}
"""Name → sRGB (0–255), at least 30 apart in CIELAB (ΔE*ab, CIE 1976)."""

NAMES: tuple[str, ...] = tuple(PALETTE)

# Linear sRGB (IEC 61966-2-1) → CIE XYZ, divided by the D65 white point so that white maps to (1, 1, 1).
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])
_XYZ_TO_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])


@lru_cache(maxsize=1)
def _linear_table() -> np.ndarray:
    """sRGB byte → linear light, (256,) float32."""
    value = np.arange(256) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65, 2°) of sRGB bytes.

    Args:
        rgb: uint8 (..., 3).

    Returns:
        float32 (..., 3): L* 0–100, a*, b*.

    Raises:
        ValueError: other dtypes or a last axis that is not 3.
    """
    if rgb.dtype != np.uint8 or rgb.shape[-1:] != (3,):
        raise ValueError(f"rgb_to_lab needs uint8 (..., 3), got {rgb.dtype} {rgb.shape}")
    xyz = _linear_table()[rgb] @ _RGB_TO_XYZ.T.astype(np.float32)  # (..., 3)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)  # CIE 15:2004
    lab = f @ _XYZ_TO_LAB.T.astype(np.float32)
    lab[..., 0] -= 16.0
    return lab.astype(np.float32)


@lru_cache(maxsize=1)
def palette_lab() -> np.ndarray:
    """(12, 3) float32 CIELAB of the palette, in the order of `NAMES`."""
    return rgb_to_lab(np.array(list(PALETTE.values()), np.uint8))


def nearest_colour(lab: np.ndarray) -> str:
    """The name nearest (ΔE*ab) to one CIELAB colour of shape (3,)."""
    return NAMES[int(np.argmin(((palette_lab() - np.asarray(lab, np.float32)) ** 2).sum(axis=1)))]


def nearest_colours(lab: np.ndarray) -> np.ndarray:
    """Index into `NAMES` of the nearest colour, for CIELAB (..., 3) → int64 (...)."""
    distance = ((lab[..., None, :] - palette_lab()) ** 2).sum(axis=-1)  # (..., 12)
    return distance.argmin(axis=-1)
