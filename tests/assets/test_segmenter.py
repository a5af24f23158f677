"""The segmenters: a real ONNX file in ONNX Runtime, and confidences that mean the same for both."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from assets.curation.segmenter import (
    GrabCutSegmenter,
    OnnxSegmenter,
    Segmenter,
    SegmentSection,
    choose_segmenter,
    saliency_confidence,
)
from assets.curation.specs import CurationSection
from assets.sample_catalogue.renderer import render
from evaluation.segmentation import VERSION, segment
from infra.errors import BackdropError
from infra.object_store import ObjectStore

SURE = CurationSection().mask_confidence


def network(
    path: Path,
    side: int | str = 64,
    *,
    gain: float = 12.0,
    sigmoid: bool = True,
    channels: int = 3,
    shape: tuple[int, ...] = (1, 1, -1),
    constant: float | None = None,
) -> Path:
    """A saliency network that finds red: gain · (R − (G + B) / 2 − 0.25) of the given planes, and a sigmoid.

    `shape` is the output's, -1 for two sides; `constant` replaces the weights by a bias.
    """
    weights = np.array([[1.0, -0.5, -0.5, 0.0][:channels]], np.float32).reshape(1, channels, 1, 1) * gain
    bias = np.array([-0.25 * gain if constant is None else constant], np.float32)
    weights = weights if constant is None else weights * 0
    nodes = [helper.make_node("Conv", ["picture", "w", "b"], ["conv"])]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", ["conv"], ["map"]))
    last = "map" if sigmoid else "conv"
    if shape != (1, 1, -1):
        nodes.append(helper.make_node("Reshape", [last, "shape"], ["shaped"]))
        last = "shaped"
    sides = [side, side]
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, channels, *sides])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
        + ([numpy_helper.from_array(np.array(shape, np.int64), "shape")] if last == "shaped" else []),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


def plain(path: Path, **settings: Any) -> OnnxSegmenter:
    """A segmenter that hands the network RGB in [0, 1]."""
    return OnnxSegmenter(str(path), SegmentSection(model=str(path), mean=(0, 0, 0), std=(1, 1, 1), **settings))


def ball(height: int, width: int, at: tuple[float, float] = (0.5, 0.5)) -> tuple[np.ndarray, np.ndarray]:
    """A red ball on grey paper (its centre at this share of width and height), and its mask."""
    rng = np.random.default_rng(2)
    pixels = np.clip(rng.normal(150, 5, (height, width, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (round(at[0] * width), round(at[1] * height)), min(height, width) // 4, 1, -1)
    pixels[mask > 0] = np.clip(rng.normal((190, 40, 30), 12, (int(mask.sum()), 3)), 0, 255)
    return pixels, mask > 0


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.mark.parametrize("shape", [(64, 64), (300, 200), (700, 1100)])
@pytest.mark.parametrize("side", [64, 128])
def test_a_network_finds_the_product_at_the_picture_s_size(tmp_path: Path, shape: tuple[int, int], side: int) -> None:
    pixels, truth = ball(*shape)
    mask, confidence = plain(network(tmp_path / "red.onnx", side)).segment(pixels)
    assert mask.shape == shape
    assert mask.dtype == bool
    assert overlap(mask, truth) > 0.9
    assert confidence >= SURE


def test_the_network_sees_normalised_rgb(tmp_path: Path) -> None:
    """The identity on the red plane, back through mean and std, is the red plane: no channel swap, no shift."""
    pixels, _ = ball(64, 64)
    path = network(tmp_path / "red.onnx", sigmoid=False)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    section = SegmentSection(model=str(path), output="logits")
    planes = ((pixels / 255.0 - mean) / std).astype(np.float32)
    logits = 12 * (planes[..., 0] - planes[..., 1:].mean(-1) - 0.25)
    wanted = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    np.testing.assert_allclose(OnnxSegmenter(str(path), section).saliency(pixels), wanted, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 64, 64), (64, 64)])
def test_a_map_without_channels_will_do(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels, truth = ball(64, 64)
    mask, _ = plain(network(tmp_path / "red.onnx", shape=shape)).segment(pixels)
    assert overlap(mask, truth) > 0.9


def test_an_open_size_comes_from_the_settings(tmp_path: Path) -> None:
    path = network(tmp_path / "red.onnx", "side")
    pixels, truth = ball(90, 120)
    one = plain(path, size=48)
    assert one.saliency(pixels).shape == (48, 48)
    assert overlap(one.segment(pixels)[0], truth) > 0.85


def test_logits_and_probabilities_give_one_mask(tmp_path: Path) -> None:
    pixels, _ = ball(80, 80)
    probable = plain(network(tmp_path / "p.onnx")).segment(pixels)
    logits = plain(network(tmp_path / "l.onnx", sigmoid=False), output="logits").segment(pixels)
    assert np.array_equal(probable[0], logits[0])
    assert probable[1] == pytest.approx(logits[1], abs=1e-3)


def test_logits_taken_for_probabilities_are_one_clear_error(tmp_path: Path) -> None:
    one = plain(network(tmp_path / "l.onnx", sigmoid=False))
    with pytest.raises(BackdropError, match="output: logits"):
        one.segment(ball(64, 64)[0])


def test_a_hesitant_network_is_trusted_less(tmp_path: Path) -> None:
    """The same mask, from ever flatter maps: the threshold alone decides, and the confidence says so."""
    pixels, truth = ball(200, 200)
    sure, unsure, flat = (plain(network(tmp_path / f"{g}.onnx", gain=g)) for g in (12.0, 3.0, 0.5))
    found = [one.segment(pixels) for one in (sure, unsure, flat)]
    assert all(overlap(mask, truth) > 0.9 for mask, _ in found)
    assert found[0][1] >= SURE > found[1][1] >= found[2][1]
    assert found[2][1] == 0


def test_a_mask_that_leaves_the_picture_is_trusted_less(tmp_path: Path) -> None:
    one = plain(network(tmp_path / "red.onnx"))
    inside, crossing = (one.segment(ball(200, 200, at)[0])[1] for at in ((0.5, 0.5), (0.5, 0.05)))
    assert inside >= SURE > crossing


@pytest.mark.parametrize(("value", "share"), [(-9.0, 0.0), (9.0, 1.0), (float("nan"), 0.0)])
def test_nothing_everything_and_not_a_number_are_no_product(tmp_path: Path, value: float, share: float) -> None:
    mask, confidence = plain(network(tmp_path / "c.onnx", constant=value)).segment(ball(50, 70)[0])
    assert mask.shape == (50, 70)
    assert mask.mean() == share
    assert confidence == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (8, 8)])
def test_tiny_and_thin_pictures_are_only_unsure(tmp_path: Path, shape: tuple[int, int]) -> None:
    mask, confidence = plain(network(tmp_path / "red.onnx")).segment(np.full((*shape, 3), (200, 20, 20), np.uint8))
    assert mask.shape == shape
    assert confidence < SURE


def test_confidence_means_the_same_for_both_segmenters() -> None:
    """On rendered products one threshold takes most right masks of either kind, and no map of a wrong place."""
    grabcut: list[bool] = []
    network_right: list[bool] = []
    for index in range(24):
        scene = render(9, index, 96)
        mask, confidence = segment(scene.image)
        if overlap(mask, scene.product_mask) > 0.6:
            grabcut.append(confidence >= SURE)
        soft = cv2.GaussianBlur(scene.product_mask.astype(np.float32), (0, 0), 1.0)
        network_right.append(saliency_confidence(scene.image, soft) >= SURE)
        assert saliency_confidence(scene.image, np.roll(soft, 30, axis=1)) < SURE
    assert len(grabcut) >= 12
    assert np.mean(grabcut) >= 0.75
    assert np.mean(network_right) >= 0.75


def test_the_embedded_segmenter_is_the_evaluation_s() -> None:
    pixels, _ = ball(100, 100)
    chosen: Segmenter = choose_segmenter(SegmentSection())
    assert isinstance(chosen, GrabCutSegmenter)
    assert (chosen.name, chosen.version) == ("grabcut", VERSION)
    mask, confidence = chosen.segment(pixels)
    expected = segment(pixels)
    assert np.array_equal(mask, expected[0])
    assert confidence == expected[1]


def test_the_version_names_the_file_and_the_settings(tmp_path: Path) -> None:
    first, same, other = (network(tmp_path / f"{n}.onnx", gain=g) for n, g in (("a", 12), ("b", 12), ("c", 11)))
    versions = [choose_segmenter(SegmentSection(model=str(path))).version for path in (first, same, other)]
    assert versions[0] == versions[1] != versions[2]
    assert plain(first).version != versions[0]
    assert choose_segmenter(SegmentSection(model=str(first), threads=2)).version == versions[0]


def test_a_segmenter_travels_to_a_worker(tmp_path: Path) -> None:
    pixels, _ = ball(60, 60)
    one = plain(network(tmp_path / "red.onnx"))
    before = one.segment(pixels)
    after = pickle.loads(pickle.dumps(one)).segment(pixels)
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]


def test_a_model_may_lie_in_a_bucket(tmp_path: Path, s3_store: ObjectStore) -> None:
    s3_store.put("models/red.onnx", network(tmp_path / "red.onnx").read_bytes())
    section = SegmentSection(model=f"{s3_store.uri}/models/red.onnx", mean=(0, 0, 0), std=(1, 1, 1))
    pixels, truth = ball(80, 80)
    assert overlap(choose_segmenter(section).segment(pixels)[0], truth) > 0.9


def test_files_that_are_no_segmenter_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"absent\.onnx"):
        choose_segmenter(SegmentSection(model=str(tmp_path / "absent.onnx")))
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    network(tmp_path / "four.onnx", channels=4)
    network(tmp_path / "long.onnx", shape=(4, 32, 32))
    for name, said in (("junk", "cannot be loaded"), ("four", "(1, 3, S, S)"), ("long", "(4, 32, 32)")):
        with pytest.raises(BackdropError) as raised:
            plain(tmp_path / f"{name}.onnx").segment(ball(64, 64)[0])
        assert said in str(raised.value)
        assert f"{name}.onnx" in str(raised.value)


def test_a_file_that_is_exchanged_during_a_run_is_noticed(tmp_path: Path) -> None:
    one = plain(network(tmp_path / "red.onnx"))
    network(tmp_path / "red.onnx", gain=3)
    with pytest.raises(BackdropError, match="changed"):
        one.segment(ball(64, 64)[0])


def test_settings_refuse_unknown_keys_and_a_zero_std() -> None:
    with pytest.raises(ValueError, match="modle"):
        SegmentSection(modle="x.onnx")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="std"):
        SegmentSection(std=(1, 0, 1))
