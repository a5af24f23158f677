"""Captions of a catalogue photograph: several phrasings that name product, floor, wall, light and camera."""

from __future__ import annotations

import numpy as np

from assets.sample_catalogue.scene import SceneSpec
from assets.sample_catalogue.shapes import SHAPES

CAPTIONS_EACH = 3

_CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "low": ("low camera", "seen from a low camera", "low angle"),
    "eye level": ("at eye level", "seen at eye level", "eye-level camera"),
    "above": ("seen from above", "from above", "high camera"),
}
_MATERIAL_WORDS: dict[str, tuple[str, ...]] = {
    "matte": ("matte",),
    "glossy": ("glossy", "shiny"),
    "metallic": ("metallic", "polished metal"),
}

# {thing} "a glossy bottle"; {wall}, {floor} colour names; {light} "front left"; {camera} a phrase.
_FULL = (
    "a photo of {thing} on a {floor} floor against a {wall} wall, light from the {light}, {camera}",
    "{thing} on a {floor} floor in front of a {wall} wall, lit from the {light}, {camera}",
    "product photo of {thing}, {floor} floor, {wall} wall, {light} light, {camera}",
    "{camera}: {thing} standing on a {floor} floor, {wall} wall behind it, light from the {light}",
    "{thing} against a {wall} wall on a {floor} floor, {camera}, with light from the {light}",
    "studio shot of {thing}, the wall is {wall}, the floor is {floor}, lit from the {light}, {camera}",
    "a {wall} wall and a {floor} floor with {thing}, {camera}, light coming from the {light}",
)
_WITHOUT_CAMERA = (
    "a photo of {thing} on a {floor} floor against a {wall} wall, light from the {light}",
    "{thing} on a {floor} tabletop with a {wall} background, lit from the {light}",
    "{thing}, {floor} floor, {wall} background, {light} light",
    "{thing} on a {floor} surface, {wall} backdrop, light from the {light}",
)
_SEAMLESS = (
    "{thing} on a seamless {wall} background, light from the {light}, {camera}",
    "a photo of {thing} against a plain {wall} backdrop, light from the {light}, {camera}",
    "product photo of {thing} on a {wall} studio background, lit from the {light}, {camera}",
    "{camera}: {thing} in a {wall} studio with a seamless backdrop, light from the {light}",
)
_SEAMLESS_WITHOUT_CAMERA = (
    "{thing} on a seamless {wall} background",
    "{thing} on a {wall} background, light from the {light}",
    "{thing} against a plain {wall} backdrop, light from the {light}",
    "studio photo of {thing}, {wall} backdrop, lit from the {light}",
    "{thing} in front of a {wall} background",
    "a photo of {thing} on {wall}, light from the {light}",
    "{thing} on a {wall} floor against a {wall} wall, light from the {light}",
    "{wall} background, {thing}",
)


def write_captions(spec: SceneSpec) -> list[str]:
    """`CAPTIONS_EACH` different captions; the first always names everything, camera included."""
    rng = np.random.default_rng([spec.seed, spec.index, 2])
    full, short = (_SEAMLESS, _SEAMLESS_WITHOUT_CAMERA) if spec.seamless else (_FULL, _WITHOUT_CAMERA)
    templates = [full[rng.integers(len(full))]]
    while len(templates) < CAPTIONS_EACH:
        pool = full if rng.random() < (0.4 if spec.seamless else 0.6) else short
        template = pool[rng.integers(len(pool))]
        if template not in templates:
            templates.append(template)
    return [_fill(template, spec, rng, first=k == 0) for k, template in enumerate(templates)]


def _fill(template: str, spec: SceneSpec, rng: np.random.Generator, *, first: bool) -> str:
    words = SHAPES[spec.object].words
    noun = words[0] if first else words[rng.integers(len(words))]
    if spec.seamless and not first and rng.random() < 0.4:
        thing = ("a product", "an object", "the product")[rng.integers(3)]
    elif rng.random() < 0.5:
        materials = _MATERIAL_WORDS[spec.material]
        thing = f"a {materials[rng.integers(len(materials))]} {noun}"
    else:
        thing = f"a {noun}"
    cameras = _CAMERA_WORDS[spec.camera_name]
    camera = cameras[rng.integers(len(cameras))]
    caption = template.format(thing=thing, wall=spec.wall, floor=spec.floor, light=spec.light, camera=camera)
    return caption.replace("a orange", "an orange")
