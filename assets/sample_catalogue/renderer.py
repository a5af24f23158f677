"""Ray-casts a scene: wall, floor, soft shadow and a shaded product, with true masks.

Everything is a pure function of (seed, index, size). The product is sphere-traced at twice the picture's
resolution inside its bounding box; the shadow is traced from the floor towards the light with a penumbra
estimate (I. Quilez, "Soft shadows in raymarched SDFs", https://iquilezles.org/articles/rmshadows/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from assets.sample_catalogue.captions import write_captions
from assets.sample_catalogue.materials import GAMMA, Vector, shade
from assets.sample_catalogue.scene import SceneSpec, draw_scene
from assets.sample_catalogue.shapes import SHAPES
from evaluation.palette import PALETTE

SUPERSAMPLE = 2
SHADOW_SIZE = 96  # shadows are smooth: larger pictures scale this one up


@dataclass(frozen=True)
class Scene:
    """One photograph and its truth; S = size."""

    image: np.ndarray  # uint8 (S, S, 3) sRGB
    product_mask: np.ndarray  # bool (S, S)
    wall_mask: np.ndarray  # bool (S, S), without the product
    floor_mask: np.ndarray  # bool (S, S), without the product, with the shadow
    shadow_mask: np.ndarray  # bool (S, S), part of the floor
    attributes: dict[str, Any]
    captions: list[str]

    def regions(self) -> np.ndarray:
        """uint8 (S, S): 0 product, 1 wall, 2 lit floor, 3 floor in shadow."""
        out = np.where(self.wall_mask, 1, 2).astype(np.uint8)
        out[self.shadow_mask] = 3
        out[self.product_mask] = 0
        return out


def render(seed: int, index: int, size: int) -> Scene:
    """Renders one photograph.

    Args:
        seed: of the whole catalogue.
        index: which photograph; from `scene.HOLDOUT_START` on, held-out triples.
        size: width and height in pixels, at least 16.

    Raises:
        ValueError: a size below 16.
    """
    return render_scene(draw_scene(seed, index), size)


def render_scene(spec: SceneSpec, size: int) -> Scene:
    """Renders a scene, which may differ from what its seed and index drew.

    Raises:
        ValueError: a size below 16.
    """
    if size < 16:
        raise ValueError(f"the sample catalogue is drawn at 16 px or more, not {size}")
    light, shadow = _shadow(spec, size)
    background, wall_mask = _background(spec, size, light)
    image, product_mask = _place_product(spec, size, background)
    wall_mask &= ~product_mask
    floor_mask = ~wall_mask & ~product_mask
    encoded = np.clip(image, 0, 1) ** np.float32(1 / GAMMA)
    encoded *= 255
    return Scene(
        image=(encoded + np.float32(0.5)).astype(np.uint8),
        product_mask=product_mask,
        wall_mask=wall_mask,
        floor_mask=floor_mask,
        shadow_mask=shadow & floor_mask,
        attributes=_attributes(spec, size),
        captions=write_captions(spec),
    )


def _attributes(spec: SceneSpec, size: int) -> dict[str, Any]:
    return {
        "object": spec.object,
        "material": spec.material,
        "wall": spec.wall,
        "floor": spec.floor,
        "seamless": spec.seamless,
        "light": spec.light,
        "shadow_side": spec.shadow_side,
        "camera": spec.camera_name,
        "floor_line": round(spec.floor_line, 5),
        "catalogue": {"seed": spec.seed, "index": spec.index, "size": size},
    }


def _linear(name: str) -> np.ndarray:
    return ((np.array(PALETTE[name], np.float32) / 255) ** np.float32(GAMMA)).astype(np.float32)


def _axis(size: int) -> np.ndarray:
    """Pixel centres as fractions of the picture from its centre, float32 (size,)."""
    return ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / size - np.float32(0.5)).astype(np.float32)


def _rays(spec: SceneSpec, u: np.ndarray, v: np.ndarray) -> Vector:
    """Directions (not unit, depth 1 along the camera's axis) through picture points; broadcasts."""
    camera = spec.camera
    sin, cos = np.float32(np.sin(camera.pitch)), np.float32(np.cos(camera.pitch))
    up = -v / np.float32(camera.focal)
    return u / np.float32(camera.focal), up * cos - sin, up * sin + cos


def _distance(spec: SceneSpec, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Signed distance to the product from points in the room."""
    sin, cos = np.float32(np.sin(spec.yaw)), np.float32(np.cos(spec.yaw))
    x, z = x - np.float32(spec.x), z - np.float32(1)
    return SHAPES[spec.object].distance(x * cos - z * sin, y, x * sin + z * cos, spec.half_width, spec.height)


def _shadow(spec: SceneSpec, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of light that arrives on the floor, float32 (S, S), and where the shadow lies, bool (S, S)."""
    side = min(size, SHADOW_SIZE)
    axis = _axis(side)
    dx, dy, dz = _rays(spec, axis[None, :], axis[:, None])
    t = np.float32(spec.camera.height) / np.maximum(-dy, np.float32(1e-4))
    x, z = t * dx, np.broadcast_to(t * dz, (side, side))
    reach = spec.half_width * 1.5 + spec.height * 1.5
    near = (np.abs(x - spec.x) < reach) & (np.abs(z - 1) < reach)
    px, pz = x[near], z[near]
    direct = _soft_shadow(spec, px, pz)
    ambient = np.float32(spec.ambient)
    contact = np.ones_like(px)
    for height in (0.03, 0.08):  # ambient occlusion: how much nearer the product is than the empty height
        clear = _distance(spec, px, np.full_like(px, height), pz) / np.float32(height)
        contact *= 1 - np.float32(0.4) * (1 - np.clip(clear, 0, 1))
    light: np.ndarray = np.ones((side, side), np.float32)
    light[near] = (ambient + (1 - ambient) * direct) * contact
    dark: np.ndarray = np.zeros((side, side), np.float32)
    dark[near] = direct < 0.6
    if side != size:
        light = cv2.resize(light, (size, size), interpolation=cv2.INTER_LINEAR)
        dark = cv2.resize(dark, (size, size), interpolation=cv2.INTER_LINEAR)
    return light, dark > 0.5


def _soft_shadow(spec: SceneSpec, px: np.ndarray, pz: np.ndarray, steps: int = 26) -> np.ndarray:
    """Share (0–1) of the direct light that reaches floor points; (N,) each."""
    lx, ly, lz = (np.float32(c) for c in spec.to_light)
    light = np.ones_like(px)
    t = np.full_like(px, 0.008)
    top = spec.height / spec.to_light[1]
    live = np.arange(px.size)
    for _ in range(steps):
        s = t[live]
        d = _distance(spec, px[live] + s * lx, s * ly, pz[live] + s * lz)
        light[live] = np.minimum(light[live], np.float32(spec.softness) * d / s)
        t[live] = s + np.clip(d, 0.006, 0.06)
        live = live[(light[live] > 0) & (t[live] < top)]
        if live.size == 0:
            break
    light = np.clip(light, 0, 1)
    return light * light * (3 - 2 * light)


def _background(spec: SceneSpec, size: int, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear light of the empty room, float32 (S, S, 3), and where the wall is, bool (S, S)."""
    axis = _axis(size)
    line = np.float32(spec.floor_line - 0.5)
    # One pixel of blending is anti-aliasing; a sweep of paper curves up over a twelfth of the picture.
    width = np.float32(1 / 12 if spec.seamless else 1 / size)
    floor_share = np.clip((axis - line) / width + np.float32(0.5), 0, 1)[:, None]  # (S, 1)
    floor_share = floor_share * floor_share * (3 - 2 * floor_share)
    u, v = axis[None, :], axis[:, None]
    toward = np.float32(spec.to_light[0])
    radius = u * u + v * v
    falloff = (1 + np.float32(0.14) * toward * u) * (1 - np.float32(spec.vignette) * radius * 2)  # (S, S)
    rng = np.random.default_rng([spec.seed, spec.index, 1])
    blotches = cv2.resize(rng.standard_normal((6, 6), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = rng.standard_normal((size, size), np.float32)
    texture = 1 + np.float32(spec.texture) * (blotches + np.float32(0.6) * grain)
    shade = falloff * texture * np.float32(spec.exposure)  # (S, S)
    floor_light = light * (np.float32(0.97) + np.float32(0.12) * v)  # nearer floor is a little brighter
    if spec.seamless:
        wall_light = light * np.float32(spec.wall_gain + 0.04)
    else:
        wall_light = np.float32(spec.wall_gain) * (np.float32(1) - np.float32(0.08) * v)
    wall, floor = _linear(spec.wall), _linear(spec.floor)
    wall_part = (shade * wall_light * (1 - floor_share))[..., None] * wall
    floor_part = (shade * floor_light * floor_share)[..., None] * floor
    wall_mask = np.broadcast_to((axis < line)[:, None], (size, size)).copy()
    return wall_part + floor_part, wall_mask


def _bounds(spec: SceneSpec, size: int) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) of the picture that hold the product."""
    camera, r = spec.camera, spec.half_width * 1.15
    sin, cos = np.sin(camera.pitch), np.cos(camera.pitch)
    x, y, z = np.meshgrid([spec.x - r, spec.x + r], [-0.01, spec.height * 1.02], [1 - r, 1 + r], indexing="ij")
    down = camera.height - y
    depth = down * sin + z * cos
    u = camera.focal * x / depth
    v = camera.focal * (down * cos - z * sin) / depth
    top, left = (int(np.floor((a.min() + 0.5) * size)) for a in (v, u))
    bottom, right = (int(np.ceil((a.max() + 0.5) * size)) for a in (v, u))
    return max(top, 0), min(bottom, size), max(left, 0), min(right, size)


def _place_product(spec: SceneSpec, size: int, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws the product into the background; returns the linear picture and the mask (half covered)."""
    top, bottom, left, right = _bounds(spec, size)
    fine = _axis(size * SUPERSAMPLE)
    v = fine[top * SUPERSAMPLE : bottom * SUPERSAMPLE]
    u = fine[left * SUPERSAMPLE : right * SUPERSAMPLE]
    colour, hit = _trace(spec, u, v)  # (h, w, 3), (h, w)
    half = (right - left, bottom - top)
    cover = cv2.resize(hit.astype(np.float32), half, interpolation=cv2.INTER_AREA)
    product = cv2.resize(colour, half, interpolation=cv2.INTER_AREA)  # premultiplied: misses are zero
    image = background
    window = image[top:bottom, left:right]
    window *= (1 - cover)[..., None]
    window += product
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = cover >= 0.5
    return image, mask


def _trace(spec: SceneSpec, u: np.ndarray, v: np.ndarray, steps: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Sphere-traces the product; returns linear colour (h, w, 3), zero off the product, and hits (h, w)."""
    shape = (v.size, u.size)
    dx, dy, dz = (np.broadcast_to(a, shape).reshape(-1) for a in _rays(spec, u[None, :], v[:, None]))
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx / length, dy / length, dz / length
    eye = np.float32(spec.camera.height)
    reach = spec.half_width * 1.5
    t = np.full(dx.shape, max(1 - reach - 0.02, 0.2), np.float32)
    live = np.arange(dx.size)
    hit = np.zeros(dx.shape, bool)
    limit = np.float32(1 + reach + 0.15)
    for _ in range(steps):
        s = t[live]
        d = _distance(spec, s * dx[live], eye + s * dy[live], s * dz[live])
        t[live] = s + d
        done = d < np.float32(4e-4)
        hit[live[done]] = True
        live = live[~done & (s + d < limit)]
        if live.size == 0:
            break
    where = np.flatnonzero(hit)
    s = t[where]
    ray = (dx[where], dy[where], dz[where])
    point = (s * ray[0], eye + s * ray[1], s * ray[2])
    colour = np.zeros((dx.size, 3), np.float32)
    colour[where] = shade(spec, point, _normal(spec, point), ray)
    return colour.reshape(*shape, 3), hit.reshape(shape)


def _normal(spec: SceneSpec, point: Vector) -> Vector:
    """Unit surface normal by four distances at the corners of a tetrahedron."""
    step = np.float32(1.5e-3)
    total = np.zeros((3, point[0].size), np.float32)
    for corner in np.array([(1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)], np.float32):
        d = _distance(spec, *(p + step * c for p, c in zip(point, corner, strict=True)))
        total += corner[:, None] * d
    nx, ny, nz = total / (np.sqrt((total * total).sum(axis=0)) + np.float32(1e-9))
    return nx, ny, nz
