"""A sample-catalogue subject: one product, photographed again and again in rooms of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from assets.sample_catalogue.renderer import Scene, render_scene
from assets.sample_catalogue.scene import SceneSpec, draw_scene

CATALOGUE_SEED = 77  # no preset's: the base has seen none of these rooms


def photographs(product: str, rgb: tuple[float, float, float], count: int, size: int, start: int = 0) -> list[Scene]:
    """`count` photographs of one matte product of the given kind and colour (0–1, sRGB), the same for equal arguments.

    Photographs of different `start` (at least 1000 apart) have different rooms, light and cameras.
    """
    rooms = _rooms(product, start)
    own = next(_rooms(product, 0))
    ratio = own.height / own.half_width
    scenes = []
    for room in (next(rooms) for _ in range(count)):
        half_width = min(room.half_width, room.height / ratio)  # it may not outgrow the picture
        scenes.append(replace(room, material="matte", object_rgb=rgb, half_width=half_width, height=half_width * ratio))
    return [render_scene(scene, size) for scene in scenes]


def _rooms(product: str, start: int) -> Iterator[SceneSpec]:
    """Scenes drawn for a product of this kind."""
    index = start
    while True:
        scene = draw_scene(CATALOGUE_SEED, index)
        if scene.object == product:
            yield scene
        index += 1
