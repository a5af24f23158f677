"""How a product's surface answers light: matte, glossy or metallic."""

from __future__ import annotations

import numpy as np

from assets.sample_catalogue.scene import SceneSpec

Vector = tuple[np.ndarray, np.ndarray, np.ndarray]

GAMMA = 2.2
"""Between linear light and sRGB bytes, near enough for pictures that are judged by their bytes."""


def shade(spec: SceneSpec, point: Vector, normal: Vector, ray: Vector) -> np.ndarray:
    """Linear colour (N, 3) of lit surface points.

    Args:
        point: on the surface, (N,) each.
        normal: unit, outwards.
        ray: unit, from the camera.
    """
    base = np.array(spec.object_rgb, np.float32) ** np.float32(GAMMA)
    nx, ny, nz = normal
    lx, ly, lz = (np.float32(c) for c in spec.to_light)
    lambert = nx * lx + ny * ly + nz * lz
    direct = np.clip((lambert + np.float32(0.15)) / np.float32(1.15), 0, 1)
    sky = np.float32(0.75) + np.float32(0.25) * ny
    rise = np.clip(point[1] / np.float32(0.25 * spec.height), 0, 1)
    occlusion = np.float32(0.55) + np.float32(0.45) * rise  # the floor shades the foot
    diffuse = (np.float32(0.42) * sky * occlusion + np.float32(0.85) * direct) * np.float32(spec.exposure)

    facing = -(nx * ray[0] + ny * ray[1] + nz * ray[2])
    rx, ry, rz = (r + 2 * facing * n for r, n in zip(ray, normal, strict=True))
    toward_light = np.clip(rx * lx + ry * ly + rz * lz, 0, 1)
    # A studio as the surface mirrors it: bright ceiling, dim floor, a soft box in the light's direction.
    studio = np.clip(np.float32(0.3) + np.float32(0.5) * ry, 0.06, 1) + np.float32(1.4) * toward_light**12
    fresnel = np.clip(1 - facing, 0, 1) ** 4
    if spec.material == "matte":
        return diffuse[:, None] * base
    if spec.material == "glossy":
        shine = np.float32(1.1) * toward_light**48 + (np.float32(0.03) + np.float32(0.35) * fresnel) * studio
        return diffuse[:, None] * base * np.float32(0.95) + shine[:, None]
    mirror = (studio * (np.float32(0.75) + np.float32(0.25) * fresnel) * occlusion)[:, None]
    tint = base * np.float32(0.7) + np.float32(0.25)
    return mirror * tint + (np.float32(0.25) * diffuse)[:, None] * base
