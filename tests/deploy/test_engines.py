"""Engines: verified before they are loaded, honest about what runs, the same answer whatever the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deploy.engines import tensorrt
from deploy.engines.onnxruntime import OrtGraph
from deploy.engines.open import choose_backend, open_engine
from deploy.engines.protocol import GraphEngine
from infra.bundles import manifest_key, open_bundle
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


def test_an_engine_answers_as_pytorch_does(world: World) -> None:
    engine = open_engine(world.store, world.engine)
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


def test_a_picture_does_not_depend_on_its_batch(world: World) -> None:
    engine = open_engine(world.store, world.engine, threads=1)
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
    engine = open_engine(world.store, world.engine)
    assert engine.backend == expected
    engine.close()


def test_tensorrt_by_name_says_why_it_cannot_run() -> None:
    if tensorrt.available() is None:
        pytest.skip("TensorRT runs on this machine")
    with pytest.raises(BackdropError, match=r"TensorRT cannot run here.*\n.*onnxruntime"):
        choose_backend("tensorrt")
    with pytest.raises(BackdropError, match="Did you mean 'tensorrt'"):
        choose_backend("tensort")


def test_a_changed_file_is_refused_before_it_is_loaded(world: World) -> None:
    key = open_bundle(world.store, world.engine).files["decoder.onnx"].key
    whole = world.store.get(key)
    world.store.put(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(BackdropError, match=r"decoder\.onnx"):
            open_engine(world.store, world.engine)
    finally:
        world.store.put(key, whole)


def test_a_changed_manifest_is_refused(world: World) -> None:
    key = manifest_key(world.engine)
    whole = world.store.get(key)
    manifest = json.loads(whole)
    manifest["meta"]["backend"] = "tensorrt"
    world.store.put(key, json.dumps(manifest).encode())
    try:
        with pytest.raises(BackdropError, match="not what was written"):
            open_engine(world.store, world.engine)
    finally:
        world.store.put(key, whole)


def test_a_model_is_no_engine(world: World) -> None:
    with pytest.raises(BackdropError, match="not an engine"):
        open_engine(world.store, world.student)


def test_damaged_onnx_is_one_clear_message() -> None:
    with pytest.raises(BackdropError, match=r"cannot load trunk\.onnx"):
        OrtGraph("trunk.onnx", b"no model")


def test_an_engine_needs_every_graph_and_student_inputs() -> None:
    with pytest.raises(ValueError, match="decoder"):
        GraphEngine("onnxruntime", {}, lambda captions: (np.zeros(0), np.zeros(0)), SIZE, 8)


def test_a_profile_follows_the_dimensions_of_the_file() -> None:
    profile = tensorrt.Profile(low={"batch": 1, "rows": 1}, best={"batch": 4, "rows": 4}, high={"batch": 16, "rows": 8})
    assert profile.shapes(["batch", 8, "2*rows"]) == ((1, 8, 2), (4, 8, 8), (16, 8, 16))
    with pytest.raises(KeyError):
        profile.shapes(["columns"])


def test_every_free_dimension_of_the_onnx_files_has_a_profile(world: World) -> None:
    bundle = open_bundle(world.store, world.engine)
    for graph, sizes in bundle.meta["profiles"].items():
        profile = tensorrt.Profile(**sizes)
        for dimensions in tensorrt.dimensions_of(bundle.read(f"{graph}.onnx")).values():
            low, best, high = profile.shapes(dimensions)
            assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
