"""The export: graphs of free size that agree with PyTorch, and the manifest that says how they were made."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.export import check_models, parity_check
from deploy.parity import ParityRow, relative_l2
from infra.bundles import open_bundle
from infra.errors import BackdropError
from tests.deploy.conftest import World


def test_the_engine_agrees_with_pytorch_on_unseen_shapes(world: World) -> None:
    (check,) = world.exported.checks
    assert check.passed, check.metadata
    assert {row["graph"] for row in check.metadata["table"]} == {"encoder", "trunk", "decoder"}
    assert len({row["shape"].split(",")[0] for row in check.metadata["table"]}) >= 5


def test_the_manifest_says_how_the_engine_was_made(world: World) -> None:
    bundle = open_bundle(world.store, world.engine)
    assert bundle.kind == "engine"
    assert set(bundle.files) == {"trunk.onnx", "encoder.onnx", "decoder.onnx"}
    meta = bundle.meta
    assert meta["backend"] == "onnxruntime"
    assert meta["sources"]["student"] == world.student
    assert meta["text_encoder"]["runs_on"] == "pytorch"
    assert meta["latency_ms"]["batch 1"]["p95"] >= meta["latency_ms"]["batch 1"]["p50"] > 0
    assert meta["opset"] == 18
    assert all(bundle.files[name].sha256 == digest for name, digest in meta["onnx_sha256"].items())


def test_a_model_in_the_wrong_place_is_refused(world: World) -> None:
    from training.models.io import load_model

    autoencoder, teacher = load_model(world.store, world.autoencoder), load_model(world.store, world.teacher)
    with pytest.raises(BackdropError, match="no student"):
        check_models(autoencoder, teacher)
    with pytest.raises(BackdropError, match="autoencoder"):
        check_models(teacher, teacher)


def test_a_bad_row_fails_the_check_and_is_named() -> None:
    rows = [ParityRow("encoder", "1 × 32 × 32", 1e-7), ParityRow("trunk", "3 × 32 × 32", 2e-3)]
    check = parity_check(rows, 1e-4)
    assert not check.passed
    assert check.metadata["worst"] == "trunk at 3 × 32 × 32"


def test_relative_l2() -> None:
    ones = np.ones((2, 2), np.float32)
    assert relative_l2(ones, ones) == 0
    assert relative_l2(ones * 1.1, ones) == pytest.approx(0.1, rel=1e-5)
    assert relative_l2(ones[:1], ones) == float("inf")
    assert relative_l2(ones * np.nan, ones) == float("inf")
