"""Preference pairs, and a reward that learns from them: on catalogue scenes, with words as random vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.sample_catalogue.renderer import render
from evaluation.preferences import (
    CAPTION_KINDS,
    LABELLED,
    PICTURE_KINDS,
    SIDE,
    Preference,
    catalogue_preferences,
    misnamed,
    read_labels,
)
from evaluation.reward import Reward, accuracy, load_reward, save_reward, train_reward
from infra.bundles import write_bundle
from infra.errors import BackdropError
from infra.images import encode_png
from infra.object_store import open_store

LENGTH, WIDTH = 32, 48


@dataclass(frozen=True)
class Shot:
    image: np.ndarray
    product: np.ndarray
    caption: str
    attributes: Mapping[str, Any]


def shots(first: int, count: int) -> list[Shot]:
    scenes = [render(0, first + index, SIDE) for index in range(count)]
    return [Shot(scene.image, scene.product_mask, scene.captions[0], scene.attributes) for scene in scenes]


def embed(captions: Sequence[str], width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Each word as a vector of its own, beside the half of its follower's: "red floor" is not "red wall"."""
    text, length = np.zeros((len(captions), LENGTH, width), np.float16), np.zeros(len(captions), np.uint8)
    for row, caption in enumerate(captions):
        words = caption.replace(",", "").split()[:LENGTH]
        length[row] = len(words)
        for place, (word, follower) in enumerate(zip(words, [*words[1:], ""], strict=True)):
            text[row, place] = vector(word, width) + 0.5 * vector(follower, width)
    return text, length


@cache
def vector(word: str, width: int) -> np.ndarray:
    seed = int.from_bytes(sha256(word.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal(width)


@pytest.fixture(scope="module")
def learned() -> Reward:
    return train_reward(catalogue_preferences(shots(0, 240), 0), embed, steps=240, seed=0)


def test_a_reward_knows_the_better_of_pairs_it_has_not_seen(learned: Reward) -> None:
    found = accuracy(learned, catalogue_preferences(shots(5000, 60), 1))
    print(found)
    assert set(found) == {"all", *CAPTION_KINDS, *PICTURE_KINDS}
    assert found["all"] >= 0.85
    assert found["wall name"] >= 0.9
    assert found["light"] >= 0.8
    assert found["background"] >= 0.9


def test_a_reward_is_the_same_after_training_saving_and_at_any_size(learned: Reward, tmp_path: Path) -> None:
    pairs = catalogue_preferences(shots(0, 12), 0)
    few = [train_reward(pairs, embed, steps=3, seed=seed) for seed in (0, 0, 1)]
    some = shots(900, 6)
    images, products = np.stack([shot.image for shot in some]), np.stack([shot.product for shot in some])
    captions = [shot.caption for shot in some]
    answers = [reward(images, products, captions) for reward in few]
    assert np.array_equal(answers[0], answers[1])
    assert not np.allclose(answers[0], answers[2])

    store = open_store(f"file://{tmp_path}")
    bundle = save_reward(store, "rewards", learned, {"pairs": 12})
    assert np.array_equal(
        load_reward(store, bundle, embed)(images, products, captions), learned(images, products, captions)
    )
    large = learned(images.repeat(2, 1).repeat(2, 2), products.repeat(2, 1).repeat(2, 2), captions)
    assert np.allclose(large, learned(images, products, captions), atol=1e-3)
    with pytest.raises(BackdropError, match="reads text of width 48, the encoder gives 16"):
        load_reward(store, bundle, lambda words: embed(words, 16))
    other = write_bundle(store, "x", "dit", {}, {})
    with pytest.raises(BackdropError, match="is a dit"):
        load_reward(store, other, embed)
    with pytest.raises(ValueError, match="6 pictures, 6 masks and 1 captions"):
        learned(images, products, ["one"])
    with pytest.raises(ValueError, match="there are none"):
        train_reward([], embed, steps=1, seed=0)


def test_pairs_keep_the_product_and_spoil_what_they_say() -> None:
    some = shots(0, 30)
    decoded: list[int] = []

    def decode(images: np.ndarray) -> np.ndarray:
        decoded.append(len(images))
        return images

    pairs = catalogue_preferences(some, 3, decode)
    again = catalogue_preferences(some, 3)
    assert [pair.kind for pair in pairs] == [pair.kind for pair in again]
    assert all(np.array_equal(a.worse, b.worse) for a, b in zip(pairs, again, strict=True))
    assert decoded == [15] * (1 + len(PICTURE_KINDS))  # every other sample's, the better and the worse ones alike
    for pair in pairs:
        assert np.array_equal(pair.worse[pair.product], pair.better[pair.product])
        changed = not np.array_equal(pair.worse, pair.better), pair.worse_caption != pair.caption
        assert changed == (pair.kind in PICTURE_KINDS, pair.kind in CAPTION_KINDS), pair.kind
    grown = [pair for pair in pairs if pair.kind == "grown product"]
    apart = [np.flatnonzero((pair.worse != pair.better).any(axis=2)).size for pair in grown]
    assert min(apart) > 0
    with pytest.raises(ValueError, match="another one's background"):
        catalogue_preferences(some[:1], 0)


def test_a_caption_is_made_wrong_in_one_thing() -> None:
    rng = np.random.default_rng(0)
    caption = "a box on a red floor, blue wall, light from the front left, leftover bluebells"
    found = misnamed(caption, {"wall": "blue", "floor": "red"}, rng)
    assert found["names exchanged"] == caption.replace("red floor, blue wall", "blue floor, red wall")
    assert found["light named"] == caption.replace("front left", "front right")
    assert "red floor" in found["wall name"]
    assert "blue wall" not in found["wall name"]
    assert "bluebells" in found["wall name"]
    plain = misnamed("a box on a red background", {"wall": "red", "floor": "red"}, rng)
    assert set(plain) == {"wall name"}  # neither two names nor a light to get wrong


def labels(folder: Path, *lines: str) -> Path:
    picture = np.full((2 * SIDE, 2 * SIDE, 3), 200, np.uint8)
    (folder / "a.png").write_bytes(encode_png(picture))
    (folder / "b.png").write_bytes(encode_png(picture // 2))
    (folder / "small.png").write_bytes(encode_png(picture[:SIDE]))
    (folder / "mask.png").write_bytes(encode_png(np.eye(2 * SIDE, dtype=np.uint8) * 255))
    path = folder / "labels.jsonl"
    path.write_text("\n".join(lines))
    return path


ROW = {"caption": "a box", "better": "a.png", "worse": "b.png", "mask": "mask.png"}


def test_people_s_pairs_are_read_and_learned_from(tmp_path: Path) -> None:
    pairs = read_labels(labels(tmp_path, json.dumps(ROW), "", json.dumps(ROW | {"caption": "a vase"})))
    assert [pair.caption for pair in pairs] == ["a box", "a vase"]
    assert pairs[0].better.shape == (SIDE, SIDE, 3)
    assert pairs[0].kind == LABELLED
    assert accuracy(train_reward(pairs, embed, steps=20, seed=0), pairs)[LABELLED] == 1
    turned: list[Preference] = [replace(pair, better=pair.worse, worse=pair.better) for pair in pairs]
    assert accuracy(train_reward(turned, embed, steps=20, seed=0), pairs)[LABELLED] == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 holds list"),
        (json.dumps(ROW | {"likes": "3"}), "'likes'"),
        (json.dumps(ROW | {"caption": 3}), "as texts"),
        (json.dumps(ROW | {"worse": "c.png"}), "line 2 names a picture that cannot be read"),
        (json.dumps(ROW | {"worse": "labels.jsonl"}), "cannot be read"),
        (json.dumps(ROW | {"worse": "small.png"}), "differ"),
    ],
)
def test_a_bad_label_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(BackdropError, match=message):
        read_labels(labels(tmp_path, json.dumps(ROW), line))


def test_a_labelling_file_has_to_be_there_and_hold_something(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="holds no pair"):
        read_labels(labels(tmp_path, ""))
    with pytest.raises(BackdropError, match="cannot be read"):
        read_labels(tmp_path / "nothing.jsonl")
