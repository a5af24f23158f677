"""Each probe is tried on pictures whose answer is known: the catalogue's own, and ones made to fail it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assets.sample_catalogue.renderer import Scene, render
from assets.sample_catalogue.scene import HOLDOUT_START
from evaluation.adherence import METRICS, regions_of, score
from evaluation.metrics.colour import away_from, border, border_colour, region_colour
from evaluation.metrics.geometry import floor_line, shadow_side
from evaluation.metrics.identity import masked_l1, product_identical
from infra.errors import BackdropError
from infra.images import decode, encode_jpeg

COUNT, SIZE = 300, 64


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render(0, HOLDOUT_START + k, SIZE) for k in range(COUNT)]


@pytest.fixture(scope="module")
def batch(scenes: list[Scene]) -> dict[str, Any]:
    images = np.stack([decode(encode_jpeg(s.image)) for s in scenes])
    return {
        "truth": images,
        "products": np.stack([s.product_mask for s in scenes]),
        "regions": np.stack([s.regions() for s in scenes]),
        "attributes": [s.attributes for s in scenes],
    }


def test_probes_agree_with_the_truth(batch: dict[str, Any]) -> None:
    means = score(batch["truth"], **batch)["means"]
    print("agreement on true pictures:", means)
    assert set(means) == set(METRICS)
    assert means["wall_colour"] >= 0.995
    assert means["floor_colour"] >= 0.995
    assert means["floor_line"] >= 0.98
    assert means["shadow_side"] >= 0.98
    assert means["masked_l1"] == 0


def test_probes_reject_somebody_elses_picture(batch: dict[str, Any]) -> None:
    """Chance level: a picture of another scene is right about one colour in twelve."""
    result = score(np.roll(batch["truth"], 1, axis=0), **batch)
    assert result["means"]["wall_colour"] < 0.2
    assert result["means"]["floor_colour"] < 0.2
    assert result["means"]["shadow_side"] < 0.7
    assert result["means"]["masked_l1"] > 0.1


def test_mirrored_picture_has_its_shadow_on_the_other_side(batch: dict[str, Any]) -> None:
    mirrored = [
        shadow_side(image[:, ::-1], np.isin(regions, (2, 3))[:, ::-1], product[:, ::-1])
        for image, regions, product in zip(batch["truth"], batch["regions"], batch["products"], strict=True)
    ]
    opposite = {"left": "right", "right": "left"}
    agree = [opposite[a["shadow_side"]] == m for a, m in zip(batch["attributes"], mirrored, strict=True)]
    assert np.mean(agree) >= 0.98


def test_probes_stand_noise(batch: dict[str, Any]) -> None:
    """A generated picture is not clean: the probes must not fail it for grain."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, batch["truth"].shape)
    noisy = np.clip(batch["truth"] + noise, 0, 255).astype(np.uint8)
    means = score(noisy, **batch)["means"]
    assert min(means[m] for m in METRICS[:4]) >= 0.95


@pytest.mark.parametrize("size", [32, 128])
def test_probes_at_other_sizes(size: int) -> None:
    scenes = [render(1, HOLDOUT_START + k, size) for k in range(60)]
    images = np.stack([s.image for s in scenes])
    products, regions = (np.stack(a) for a in zip(*((s.product_mask, s.regions()) for s in scenes), strict=True))
    means = score(images, images, products, regions, [s.attributes for s in scenes])["means"]
    assert min(means[m] for m in METRICS[:4]) >= 0.95


def test_floor_line_between_rows() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    image[40:] = 60
    image[39] = (200 * 0.25 + 60 * 0.75,) * 3
    product = np.zeros((64, 64), bool)
    product[20:50, 24:40] = True
    image[product] = (255, 0, 0)
    found = floor_line(image, product)
    assert found is not None
    assert abs(found - 39.25 / 64) < 0.25 / 64


def test_no_floor_line_in_a_plain_picture() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    assert floor_line(image, np.zeros((64, 64), bool)) is None
    assert floor_line(image, np.ones((64, 64), bool)) is None


def test_no_shadow_on_a_plain_floor() -> None:
    product = np.zeros((64, 64), bool)
    product[20:50, 24:40] = True
    assert shadow_side(np.full((64, 64, 3), 128, np.uint8), ~product, product) is None


def test_ring_keeps_four_pixels_away() -> None:
    product = np.zeros((32, 32), bool)
    product[10:20, 10:20] = True
    free = away_from(product)
    assert not free[15, 6:24].any()
    assert free[15, 5]
    assert free[15, 24]
    assert away_from(np.zeros((8, 8), bool)).all()


def test_border_colour_of_a_photograph_reaching_the_edge() -> None:
    image = np.full((60, 80, 3), (60, 148, 72), np.uint8)
    product = np.zeros((60, 80), bool)
    product[10:, 30:50] = True
    image[product] = (192, 38, 42)
    image[25:35, 5:25] = 255  # inside: does not count
    assert border_colour(image, product) == "green"
    assert border((60, 80)).sum() == 60 * 80 - 50 * 70
    assert border_colour(image, np.ones((60, 80), bool)) is None
    assert region_colour(image, np.zeros((60, 80), bool), product) is None


def test_masked_l1_counts_the_hole_only() -> None:
    truth = np.zeros((8, 8, 3), np.uint8)
    generated = np.full((8, 8, 3), 51, np.uint8)
    product = np.zeros((8, 8), bool)
    product[2:4, 2:4] = True
    generated[product] = 255
    assert masked_l1(generated, truth, product) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="whole picture"):
        masked_l1(generated, truth, np.ones((8, 8), bool))
    with pytest.raises(ValueError, match="shapes"):
        masked_l1(generated[:4], truth, product)


def test_product_identity_is_exact() -> None:
    original = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    product = np.zeros((8, 8), bool)
    product[1:3] = True
    composite = np.where(product[..., None], original, 0).astype(np.uint8)
    assert product_identical(composite, original, product)
    composite[1, 0, 0] += 1
    assert not product_identical(composite, original, product)


def test_score_refuses_what_does_not_fit(batch: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shapes"):
        score(batch["truth"][:, :32], **batch)
    with pytest.raises(ValueError, match="attributes"):
        score(batch["truth"], **{**batch, "attributes": batch["attributes"][:3]})


def test_seamless_pictures_have_no_line_to_score(batch: dict[str, Any]) -> None:
    result = score(batch["truth"], **batch)
    seamless = np.array([a["seamless"] for a in batch["attributes"]])
    assert (np.isnan(result["floor_line"]) == seamless).all()


def test_regions_name_what_is_missing() -> None:
    with pytest.raises(BackdropError, match="without true regions"):
        regions_of({"wall": "red"})
    with pytest.raises(BackdropError, match="unreadable"):
        regions_of({"regions": "bm9waW5n"})
