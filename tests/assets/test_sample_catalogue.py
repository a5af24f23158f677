"""Pictures show what they say, splits do not leak, dirt is what the truth table says."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.sample_catalogue.captions import CAPTIONS_EACH
from assets.sample_catalogue.delivery import MANIFEST, Order, plan, write_delivery
from assets.sample_catalogue.dirt import KINDS, plant
from assets.sample_catalogue.renderer import render
from assets.sample_catalogue.scene import HOLDOUT_START, LIGHTS, SEAMLESS_SHARE, draw_scene, is_holdout
from assets.sample_catalogue.shapes import SHAPES
from evaluation.adherence import regions_of
from evaluation.metrics.colour import away_from, region_colour
from evaluation.palette import NAMES
from infra.errors import BackdropError
from infra.images import BadImage, decode, decode_mask, probe

ORDER: dict[str, Any] = {"count": 120, "holdout": 12, "size": 64, "seed": 3, "dirt": 0.2}


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue") / "delivery"
    write_delivery(folder, **ORDER, workers=1)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def test_colours_are_as_captioned_and_shadows_can_be_seen() -> None:
    right, visible = [], []
    for index in range(400):
        scene = render(7, index, 64)
        wall, floor = scene.attributes["wall"], scene.attributes["floor"]
        right.append(region_colour(scene.image, scene.wall_mask, scene.product_mask) == wall)
        right.append(region_colour(scene.image, scene.floor_mask, scene.product_mask) == floor)
        shadow = scene.shadow_mask & away_from(scene.product_mask)
        columns = np.flatnonzero(scene.product_mask.any(axis=0))
        centre = (columns[0] + columns[-1]) / 2
        left, rest = shadow[:, : int(centre)].sum(), shadow[:, int(centre) + 1 :].sum()
        wanted, other = (left, rest) if scene.attributes["shadow_side"] == "left" else (rest, left)
        visible.append(wanted > max(other, 4))
    assert np.mean(right) >= 0.995
    assert np.mean(visible) >= 0.98


@pytest.mark.parametrize("size", [32, 64, 256])
def test_masks_partition_the_picture(size: int) -> None:
    for index in range(8):
        scene = render(0, index, size)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        parts = [scene.product_mask, scene.wall_mask, scene.floor_mask]
        assert (np.sum(parts, axis=0) == 1).all()
        assert not (scene.shadow_mask & ~scene.floor_mask).any()
        assert 0.02 < scene.product_mask.mean() < 0.5
        line = np.flatnonzero(scene.floor_mask.any(axis=1))[0] / size
        assert abs(line - scene.attributes["floor_line"]) <= 1.0 / size


def test_pure_and_the_same_scene_at_every_size() -> None:
    small, again, large = render(5, 11, 32), render(5, 11, 32), render(5, 11, 128)
    assert np.array_equal(small.image, again.image)
    assert small.captions == again.captions == large.captions
    shrunk = large.product_mask.reshape(32, 4, 32, 4).mean(axis=(1, 3)) >= 0.5
    assert (shrunk != small.product_mask).mean() < 0.02
    assert not np.array_equal(small.image, render(6, 11, 32).image)


def test_too_small_to_draw() -> None:
    with pytest.raises(ValueError, match="16 px"):
        render(0, 0, 8)


def test_everything_occurs() -> None:
    scenes = [draw_scene(0, index) for index in range(3000)]
    for values, key in ((SHAPES, "object"), (NAMES, "wall"), (NAMES, "floor"), (LIGHTS, "light")):
        counts = Counter(getattr(s, key) for s in scenes)
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.4 * len(scenes) / len(set(values))
    assert abs(np.mean([s.seamless for s in scenes]) - SEAMLESS_SHARE) < 0.03


def test_held_out_triples_never_train() -> None:
    train = {(s.wall, s.floor, s.object) for s in (draw_scene(0, k) for k in range(2000))}
    held = {(s.wall, s.floor, s.object) for s in (draw_scene(0, HOLDOUT_START + k) for k in range(256))}
    assert not train & held
    triples = [(w, f, o) for w in NAMES for f in NAMES for o in SHAPES]
    assert 0.07 < np.mean([is_holdout(*t) for t in triples]) < 0.13
    assert len(held) > 60


def test_captions_name_what_is_there() -> None:
    short = 0
    for index in range(300):
        scene = render(0, index, 16)
        names = scene.attributes
        assert len(set(scene.captions)) == CAPTIONS_EACH
        first = scene.captions[0]
        for word in (names["object"], names["wall"], names["floor"], names["light"]):
            assert word in first
        assert any(word in first for word in ("camera", "eye", "above", "angle"))
        for caption in scene.captions:
            assert names["wall"] in caption
            assert names["floor"] in caption
            assert "{" not in caption
            short += len(caption.split()) < 8
    assert short < 0.2 * 300 * CAPTIONS_EACH


def test_manifest_counts_and_truth(delivery: Path) -> None:
    rows = rows_of(delivery)
    kinds = Counter(row["attributes"].get("planted") for row in rows)
    assert kinds[None] == ORDER["count"] + ORDER["holdout"]
    assert set(kinds) == {None, *KINDS}
    assert sum(kinds.values()) - kinds[None] == round(ORDER["dirt"] * ORDER["count"])
    assert Counter(row["split"] for row in rows)["holdout"] == ORDER["holdout"]
    for row in rows:
        assert row["licence"] == "CC0-1.0"
        assert ("regions" in row["attributes"]) == (row["split"] == "holdout")
        if row["attributes"].get("planted") is None:
            mask = decode_mask((delivery / row["mask"]).read_bytes())
            assert mask.shape == (ORDER["size"],) * 2


def test_regions_travel_with_the_held_out(delivery: Path) -> None:
    row = next(row for row in rows_of(delivery) if row["split"] == "holdout")
    again = row["attributes"]["catalogue"]
    scene = render(again["seed"], again["index"], again["size"])
    assert np.array_equal(regions_of(row["attributes"]), scene.regions())
    mask = decode_mask((delivery / row["mask"]).read_bytes())
    assert np.array_equal(mask, scene.product_mask)


def test_dirt_is_what_it_says(delivery: Path) -> None:
    for row in rows_of(delivery):
        data, kind = (delivery / row["path"]).read_bytes(), row["attributes"].get("planted")
        if kind in ("corrupt", "truncated", "not an image"):
            with pytest.raises(BadImage):
                decode(data)
            continue
        image = decode(data)
        if kind == "too small":
            assert max(probe(data)[1:]) <= 12
        elif kind in ("duplicate", "near duplicate"):
            original = (delivery / row["attributes"]["of"]).read_bytes()
            assert (data == original) == (kind == "duplicate")
            assert np.abs(image.astype(int) - decode(original)).mean() < 12
        elif kind == "text overlay":
            clean = render(ORDER["seed"], row["attributes"]["catalogue"]["index"], ORDER["size"])
            changed = (np.abs(image.astype(int) - clean.image).max(axis=2) > 40).mean()
            assert 0.01 < changed < 0.5


def test_clean_pictures_are_not_near_duplicates(delivery: Path) -> None:
    """The closest two clean photographs differ more than any copy from its original does."""
    rows = rows_of(delivery)
    clean = [r for r in rows if r["attributes"].get("planted") is None]
    thumbs = np.stack([thumbnail(delivery / r["path"]) for r in clean])
    distance = np.sqrt(((thumbs[:, None] - thumbs[None]) ** 2).mean(axis=2))
    np.fill_diagonal(distance, np.inf)
    copies = [r for r in rows if r["attributes"].get("planted") == "near duplicate"]
    copied = max(
        float(np.sqrt(((thumbnail(delivery / r["path"]) - thumbnail(delivery / r["attributes"]["of"])) ** 2).mean()))
        for r in copies
    )
    assert distance.min() > copied


def thumbnail(path: Path) -> np.ndarray:
    image = decode(path.read_bytes()).astype(np.float32)
    return image.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3)).ravel()


def test_same_bytes_whatever_the_workers(delivery: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_delivery(tmp_path / "again", **ORDER, workers=2, progress=lambda *a: seen.append(a))
    assert digest(tmp_path / "again") == digest(delivery)
    total = len(plan(Order(**ORDER)))
    assert seen[-1] == (total, total)


def test_whole_delivery_is_left_alone_and_a_broken_one_replaced(tmp_path: Path) -> None:
    order: dict[str, Any] = {"count": 8, "holdout": 2, "size": 32, "seed": 0, "dirt": 0.0}
    folder = tmp_path / "d"
    leftovers = tmp_path / ".d.partial" / "images"
    leftovers.mkdir(parents=True)
    (leftovers / "half.jpg").write_bytes(b"killed here")
    manifest = write_delivery(folder, **order)
    before, stamp = digest(folder), manifest.stat().st_mtime_ns
    write_delivery(folder, **order)
    assert manifest.stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    (folder / ".order.json").unlink()  # not known to be whole
    (folder / "images" / "000000.jpg").unlink()
    write_delivery(folder, **order)
    assert digest(folder) == before
    write_delivery(folder, **{**order, "seed": 1})
    assert digest(folder) != before


def test_impossible_orders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="cannot be drawn"):
        write_delivery(tmp_path / "d", count=0, holdout=0, size=64, seed=0, dirt=0.0)
    with pytest.raises(ValueError, match="unknown dirt"):
        plant("mud", np.zeros((16, 16, 3), np.uint8), b"", np.random.default_rng(0))
