"""Each metric on the catalogue's true pictures and on ones that were spoilt in the one way that it is to notice."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from assets.sample_catalogue.renderer import render
from assets.sample_catalogue.scene import HOLDOUT_START
from evaluation.features import open_extractor
from evaluation.measure import HIGHER_IS_BETTER, PARTIAL, measure_all, regions_at
from evaluation.metrics.energy import energy_per_picture
from evaluation.metrics.leakage import keep_rmse
from evaluation.metrics.light import light_fall, shadow_agreement
from evaluation.metrics.seam import seam_excess, seam_gradient
from infra.images import encode_png

COUNT, SIZE = 120, 64


@dataclass(frozen=True)
class Shot:
    image: np.ndarray
    product: np.ndarray
    caption: str
    attributes: Mapping[str, Any]


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    scenes = [render(0, HOLDOUT_START + index, SIZE) for index in range(COUNT)]
    regions = [base64.b64encode(encode_png(scene.regions())).decode() for scene in scenes]
    return [
        Shot(scene.image, scene.product_mask, scene.captions[0], {**scene.attributes, "regions": truth})
        for scene, truth in zip(scenes, regions, strict=True)
    ]


@pytest.fixture(scope="module")
def truth(shots: list[Shot]) -> np.ndarray:
    return np.stack([shot.image for shot in shots])


def means(shots: list[Shot], made: np.ndarray, **tools: Any) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in measure_all(shots, made, **tools).items()}


def test_true_pictures_score_full_marks(shots: list[Shot], truth: np.ndarray) -> None:
    products = np.stack([shot.product for shot in shots])
    found = means(
        shots,
        truth,
        extractor=open_extractor("randconv:0"),
        segmenter=lambda images: products,
        reward=lambda images, masks, captions: np.arange(len(images)),
        clip=lambda images, captions: np.ones(len(images)),
    )
    assert set(found) == set(HIGHER_IS_BETTER)
    assert found["adherence"] >= 0.99
    assert found["shadow"] >= 0.98
    assert found["light"] >= 0.98
    for name in ("leakage", "seam", "expansion", "feature_distance"):
        assert found[name] == 0
    assert found["identity"] == 1


def test_a_mirrored_background_is_lit_from_the_wrong_side(shots: list[Shot], truth: np.ndarray) -> None:
    found = means(shots, np.ascontiguousarray(truth[:, :, ::-1]))
    assert found["light"] < 0.05
    assert found["shadow"] < 0.6
    assert found["identity"] == 1  # whatever was painted, the product is put back


def test_somebody_else_s_background_is_worse_in_all_that_it_should_be(shots: list[Shot], truth: np.ndarray) -> None:
    extractor = open_extractor("randconv:0")
    other = measure_all(shots, np.roll(truth, 1, axis=0), extractor=extractor)
    noisy = np.clip(truth + np.random.default_rng(0).normal(0, 6, truth.shape), 0, 255).astype(np.uint8)
    near = measure_all(shots, noisy, extractor=extractor)
    for name in ("adherence", "shadow", "light"):
        assert other[name].mean() < near[name].mean() - 0.3, name
    for name in ("leakage", "feature_distance"):
        assert other[name].mean() > near[name].mean() + 0.05, name
    assert near["leakage"].mean() == pytest.approx(6 / 255, rel=0.1)


def test_a_halo_is_a_seam_and_a_smooth_background_is_none(shots: list[Shot], truth: np.ndarray) -> None:
    halo, smooth = truth.copy(), truth.copy()
    for row, shot in enumerate(shots):
        rim = cv2.dilate(shot.product.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~shot.product
        halo[row][rim] = 255 - halo[row][rim]
        smooth[row] = np.median(truth[row][~shot.product], axis=0)
    assert means(shots, halo)["seam"] > 5
    assert means(shots, smooth)["seam"] == 0
    nothing = np.zeros((SIZE, SIZE), bool)
    assert seam_gradient(truth[0], nothing) == seam_gradient(truth[0], ~nothing) == 0
    assert seam_excess(truth[0], halo[0], shots[0].product) == 0


def test_a_shadow_without_a_floor_is_a_toss_up() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = 200
    top = np.arange(4)[:, None].repeat(4, 1) < 2
    assert shadow_agreement(image, top, ~top) == 1
    assert shadow_agreement(image, ~top, top) == 0
    assert shadow_agreement(np.full_like(image, 9), top, ~top) == 0.5
    assert shadow_agreement(image, top, np.zeros_like(top)) == 0.5


def test_light_falls_from_where_the_wall_is_bright() -> None:
    wall, nothing = np.ones((32, 32), bool), np.zeros((32, 32), bool)
    image = np.repeat(np.linspace(100, 160, 32).astype(np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    assert light_fall(image, wall, nothing) > 15
    assert light_fall(image[:, ::-1], wall, nothing) < -15
    assert light_fall(image, nothing, nothing) == 0
    spotted = image.copy()
    spotted[4:8, 2:6] = 255  # medians: a small bright thing on the dark side does not count
    assert light_fall(spotted, wall, nothing) == pytest.approx(light_fall(image, wall, nothing))


def test_photographs_lack_what_only_the_catalogue_knows(shots: list[Shot], truth: np.ndarray) -> None:
    mixed = [*shots[:3], *(replace(shot, attributes={}) for shot in shots[3:5])]
    images = truth[:5].copy()
    images[3] = (192, 38, 42)
    images[4] = (34, 86, 192)
    found = measure_all(
        mixed,
        images,
        colours=[None, None, None, "red", "red"],
        extractor=open_extractor("randconv:0"),
        segmenter=lambda some: np.zeros(some.shape[:3], bool),
    )
    for name, values in found.items():
        assert values.shape == (5,)
        assert np.isnan(values).tolist() == [False] * 3 + [name in PARTIAL] * 2, name
    assert found["adherence"][3:].tolist() == [1, 0]


def test_captions_reach_the_ranker_and_what_does_not_fit_is_refused(shots: list[Shot], truth: np.ndarray) -> None:
    heard: list[str] = []

    def rank(images: np.ndarray, products: np.ndarray, captions: Any) -> np.ndarray:
        heard.extend(captions)
        return np.zeros(len(images))

    measure_all(shots[:2], truth[:2], captions=["one", "two"], reward=rank)
    assert heard == ["one", "two"]
    with pytest.raises(ValueError, match="3 samples, 2 pictures"):
        measure_all(shots[:3], truth[:2])
    with pytest.raises(ValueError, match="picture 0 of 1 keeps nothing"):
        measure_all([replace(shots[0], product=np.zeros((SIZE, SIZE), bool))], truth[:1])
    with pytest.raises(ValueError, match="shapes differ"):
        keep_rmse(truth[:2], truth[:2], np.ones((1, SIZE, SIZE), bool))


def test_regions_follow_the_picture_s_size(shots: list[Shot]) -> None:
    large = replace(shots[0], product=np.ones((2 * SIZE, 2 * SIZE), bool))
    assert np.array_equal(regions_at(large)[::2, ::2], regions_at(shots[0]))


def rapl(folder: Path, values: list[int]) -> Path:
    for index, value in enumerate(values):
        zone = folder / f"intel-rapl:{index}"
        zone.mkdir(exist_ok=True)
        (zone / "energy_uj").write_text(str(value))
        (zone / "max_energy_range_uj").write_text("10000000")
    part = folder / "intel-rapl:0:0"  # a part of package 0, which is not to be counted twice
    part.mkdir(exist_ok=True)
    (part / "energy_uj").write_text("0")
    return folder


def test_energy_is_read_from_the_machine_s_counters_and_never_guessed(tmp_path: Path) -> None:
    rapl(tmp_path, [4_000_000, 9_000_000])

    def run() -> int:
        rapl(tmp_path, [6_000_000, 1_000_000])
        return 4

    found = energy_per_picture(run, torch.device("cpu"), tmp_path)
    assert found.joules == pytest.approx((2 + 2) / 4)  # the second counter began anew
    assert found.source == "RAPL, 2 package(s)"
    with pytest.raises(ValueError, match="0 pictures"):
        energy_per_picture(lambda: 0, torch.device("cpu"), tmp_path)

    def never() -> int:
        raise AssertionError("pictures for a counter that is not there")

    none = energy_per_picture(never, torch.device("cpu"), tmp_path / "nowhere")
    assert none.as_dict() == {"joules": None, "watts": None, "source": none.source}
    assert none.source.startswith("not measured: no processor energy counter")
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert "cannot be read" in energy_per_picture(never, torch.device("cpu"), tmp_path).source
