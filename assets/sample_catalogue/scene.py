"""What one catalogue photograph shows: drawn from (seed, index) alone, before any pixel.

Units: the product stands at distance 1 from the camera on the floor y = 0; the wall is parallel to the
picture at about distance 2. Picture coordinates are fractions of the height, v downwards from the centre.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from dataclasses import dataclass

import numpy as np

from assets.sample_catalogue.shapes import SHAPES
from evaluation.palette import NAMES

LIGHTS = ("front left", "front right", "back left", "back right")
MATERIALS = ("matte", "glossy", "metallic")
CAMERAS: dict[str, tuple[float, float]] = {
    "low": (0.17, 0.20),
    "eye level": (0.25, 0.28),
    "above": (0.34, 0.39),
}
"""Camera → range of its height over its distance: how far the floor line lies above the product's foot."""

HOLDOUT_START = 1_000_000_000
"""Indexes from here on show held-out (wall, floor, object) triples, indexes below never do."""

HOLDOUT_SHARE = 0.10
SEAMLESS_SHARE = 0.15
CLOSE_UP_SHARE = 0.35


@dataclass(frozen=True)
class Camera:
    height: float  # above the floor, in product distances
    pitch: float  # radians downwards
    focal: float  # picture heights

    def project(self, y: float, z: float) -> float:
        """v of the point at height y and distance z (x does not matter: no roll)."""
        down = math.atan2(self.height - y, z) - self.pitch
        return self.focal * math.tan(down)


@dataclass(frozen=True)
class SceneSpec:
    """Everything the renderer needs besides the size."""

    seed: int
    index: int
    object: str
    material: str
    object_rgb: tuple[float, float, float]  # 0–1, sRGB
    yaw: float  # radians about the vertical axis
    half_width: float
    height: float
    x: float  # sideways place of the product's foot
    wall: str
    floor: str
    seamless: bool  # wall and floor are one sweep of paper
    light: str
    to_light: tuple[float, float, float]  # unit vector
    softness: float  # larger: harder shadow edge
    ambient: float  # share of light that reaches a shadow
    camera_name: str
    camera: Camera
    wall_distance: float
    exposure: float
    wall_gain: float
    vignette: float
    texture: float

    @property
    def floor_line(self) -> float:
        """Height of the line between wall and floor as a fraction of the picture, from its top."""
        return 0.5 + self.camera.project(0.0, self.wall_distance)

    @property
    def shadow_side(self) -> str:
        return "right" if self.light.endswith("left") else "left"


def is_holdout(wall: str, floor: str, product: str) -> bool:
    """Whether this triple is kept from training: about a tenth of all, by hash, the same in every seed."""
    digest = hashlib.sha256(f"{wall}|{floor}|{product}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HOLDOUT_SHARE * 2**32


def _draw_triple(rng: np.random.Generator, holdout: bool) -> tuple[str, str, str]:
    products = tuple(SHAPES)
    while True:
        product = products[rng.integers(len(products))]
        wall = NAMES[rng.integers(len(NAMES))]
        other = (NAMES.index(wall) + int(rng.integers(1, len(NAMES)))) % len(NAMES)
        floor = wall if rng.random() < SEAMLESS_SHARE else NAMES[other]
        if is_holdout(wall, floor, product) == holdout:
            return wall, floor, product


def _object_rgb(rng: np.random.Generator) -> tuple[float, float, float]:
    """A product colour that is free of the palette: any hue, from pale to deep."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.8), rng.uniform(0.35, 0.92))


def draw_scene(seed: int, index: int) -> SceneSpec:
    """The scene of one index; the same for every picture size."""
    rng = np.random.default_rng([seed, index])
    wall, floor, product = _draw_triple(rng, holdout=index >= HOLDOUT_START)
    shape = SHAPES[product]
    ratio = rng.uniform(*shape.height)  # height over half width
    close = rng.random() < CLOSE_UP_SHARE
    focal = rng.uniform(1.45, 1.55)
    front = rng.uniform(0.36, 0.46) if close else rng.uniform(0.26, 0.36)  # v of the product's nearest foot
    # Neither axis may outgrow the picture: bottles are limited by their height, rings by their width.
    tallest = (front + rng.uniform(0.28, 0.40) if close else rng.uniform(0.45, 0.56)) / focal
    half_width = min(rng.uniform(0.12, 0.17) if close else rng.uniform(0.085, 0.125), tallest / ratio)

    light = LIGHTS[rng.integers(4)]
    azimuth = math.radians(rng.uniform(22, 38))  # away from the picture plane
    elevation = math.radians(rng.uniform(36, 48))
    to_light = (
        math.cos(elevation) * math.cos(azimuth) * (-1 if light.endswith("left") else 1),
        math.sin(elevation),
        math.cos(elevation) * math.sin(azimuth) * (-1 if light.startswith("front") else 1),
    )

    camera_name = tuple(CAMERAS)[rng.integers(len(CAMERAS))]
    camera_height = rng.uniform(*CAMERAS[camera_name])
    pitch = math.atan(camera_height / (1 - half_width)) - math.atan(front / focal)
    camera = Camera(camera_height, pitch, focal)
    return SceneSpec(
        seed=seed,
        index=index,
        object=product,
        material=MATERIALS[rng.integers(len(MATERIALS))],
        object_rgb=_object_rgb(rng),
        yaw=rng.choice((-1, 1)) * rng.uniform(0.15, 0.75),
        half_width=half_width,
        height=half_width * ratio,
        x=rng.uniform(-0.07, 0.07) * (0.4 if close else 1.0),
        wall=wall,
        floor=floor,
        seamless=wall == floor,
        light=light,
        to_light=to_light,
        softness=rng.uniform(5, 10),
        ambient=rng.uniform(0.36, 0.46),
        camera_name=camera_name,
        camera=camera,
        wall_distance=rng.uniform(1.92, 2.08),
        exposure=rng.uniform(0.95, 1.05),
        wall_gain=rng.uniform(0.90, 1.0),
        vignette=rng.uniform(0.0, 0.10),
        texture=rng.uniform(0.005, 0.02),
    )
