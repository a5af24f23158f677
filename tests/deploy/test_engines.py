"""Engines: verified before they are loaded, honest about what runs, the same answer whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.engines import tensorrt
from deploy.engines.model import OnnxModel
from deploy.engines.onnxruntime import OrtGraph
from deploy.engines.open import choose_backend, open_engine
from deploy.engines.protocol import GraphEngine
from infra.bundles import open_bundle
from infra.errors import BackdropError
from tests.deploy.conftest import SIZE, World
from training.editing import complete
from training.models.io import load_model
from training.parts import TorchParts

CAPTIONS = ["a box on a blue floor against a red wall", "a product on a seamless green background"]


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    product = np.zeros((count, SIZE, SIZE), bool)
    product[:, 8:20, 8:20] = True
    return images, product


def test_a_caption_is_embedded_without_pytorch_as_with_it(world: World) -> None:
    from training.models.text_encoder import TextEncoder

    engine = open_engine(world.store, world.engine, world.trust)
    encoder = TextEncoder(None, length=32)
    long = "a very " * 40 + "long caption"
    for captions in ([*CAPTIONS, long], [""], CAPTIONS[:1] * 2):
        ours, length = engine.embed(captions)
        theirs, expected = encoder.embed(captions)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(length, expected)
        # PyTorch's may run in bfloat16 here, so only nearly the same.
        assert np.linalg.norm(ours.astype(float) - theirs) / np.linalg.norm(theirs.astype(float)) < 0.03
    engine.close()


def test_an_engine_answers_as_pytorch_does(world: World) -> None:
    engine = open_engine(world.store, world.engine, world.trust)
    reference = TorchParts(
        load_model(world.store, world.autoencoder), load_model(world.store, world.student), engine.embed, SIZE
    )
    images, product = pictures(2)
    ours, theirs = (
        complete(parts, images, product, CAPTIONS, steps=4, guidance=2.0, seeds=[1, 2], student=True)
        for parts in (engine, reference)
    )
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    engine.close()


def test_padding_beyond_the_captions_changes_nothing(world: World) -> None:
    engine = open_engine(world.store, world.engine, world.trust)
    rng = np.random.default_rng(0)
    z, masked = (rng.standard_normal((3, 8, 4, 4), np.float32) for _ in range(2))
    mask, ones = np.ones((3, 1, 4, 4), np.float32), np.ones(3, np.float32)
    text = rng.standard_normal((3, 32, 384)).astype(np.float32)
    length, none = np.array([5, 1, 0]), np.zeros(3, int)
    short = engine.velocity(z, ones, masked, mask, text, length, ones, ones)
    # A row that is as long as its text keeps all of it; the others must not notice.
    whole = engine.velocity(z, ones, masked, mask, text, np.array([5, 1, 32]), ones, ones)
    assert np.allclose(short[:2], whole[:2], atol=1e-5)
    assert not np.allclose(short[2], whole[2], atol=1e-3)
    away = engine.velocity(z, ones, masked, mask, text, length, ones, ones, text, none)
    assert np.allclose(away, short, atol=1e-5)
    engine.close()


def test_a_picture_does_not_depend_on_its_batch(world: World) -> None:
    engine = open_engine(world.store, world.engine, world.trust, threads=1)
    images, product = pictures(2)
    both = complete(engine, images, product, CAPTIONS, steps=2, guidance=2.0, seeds=[1, 2], student=True)
    alone = complete(engine, images[1:], product[1:], CAPTIONS[1:], steps=2, guidance=2.0, seeds=[2], student=True)
    assert np.abs(both[1].astype(int) - alone[0].astype(int)).max() <= 1
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.decode(np.zeros((1, 8, 4, 4), np.float32))


def test_auto_never_calls_onnx_runtime_tensorrt(world: World) -> None:
    expected = "onnxruntime" if tensorrt.available() else "tensorrt"
    assert choose_backend("auto") == expected
    engine = open_engine(world.store, world.engine, world.trust)
    assert engine.backend == expected
    engine.close()


def test_tensorrt_by_name_says_why_it_cannot_run() -> None:
    if tensorrt.available() is None:
        pytest.skip("TensorRT runs on this machine")
    with pytest.raises(BackdropError, match=r"TensorRT cannot run here.*\n.*onnxruntime"):
        choose_backend("tensorrt")
    with pytest.raises(BackdropError, match="Did you mean 'tensorrt'"):
        choose_backend("tensort")


@pytest.mark.parametrize("cut", [0, 7, 1000, -1])
def test_a_truncated_onnx_file_is_one_clear_message(world: World, cut: int) -> None:
    graph = open_bundle(world.store, world.engine).read("trunk.onnx")[:cut]
    with pytest.raises(BackdropError, match=r"cannot load trunk\.onnx"):
        OrtGraph(OnnxModel("trunk.onnx", graph))


def test_an_engine_needs_every_graph_and_student_inputs() -> None:
    with pytest.raises(ValueError, match="decoder"):
        GraphEngine("onnxruntime", {}, lambda captions: (np.zeros(0), np.zeros(0)), SIZE, 8)
