"""The export: graphs of free size that agree with PyTorch, inside too, and a manifest that says how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deploy.building import Beside, building_beside, largest_errors
from deploy.engines.model import OnnxModel
from deploy.engines.onnxruntime import OrtGraph
from deploy.export import check_models
from deploy.graphs import Export, to_onnx, write_onnx
from deploy.operators import ALLOWED, check_operators
from deploy.parity import ParityRow, check_parity, parity_check, relative_l2
from deploy.precision import TOLERANCE
from deploy.probes import INSIDE_GRID, SHAPES, Probe, Probes
from infra.bundles import open_bundle
from infra.errors import BackdropError
from tests.deploy.conftest import World
from training.presets.sections import ExportSection

GRAPHS = {"encoder", "trunk", "decoder", "text"}


def test_the_engine_agrees_with_pytorch_on_unseen_shapes(world: World) -> None:
    outputs, _ = world.exported.checks
    assert outputs.passed, outputs.metadata
    assert outputs.metadata["tolerance"] == 1e-5
    assert {row["graph"] for row in outputs.metadata["table"]} == GRAPHS
    assert len({row["shape"].split(",")[0] for row in outputs.metadata["table"]}) == len(SHAPES) == 6


def test_every_node_agrees_and_the_worst_has_a_name(world: World) -> None:
    _, nodes = world.exported.checks
    assert nodes.passed, nodes.metadata
    kept = open_bundle(world.store, world.engine).meta["nodes"]
    assert kept["compared"]["pytorch"] > 300
    assert nodes.metadata["worst"].startswith(kept["worst"][0]["node"])


def test_the_manifest_says_how_the_engine_was_made(world: World) -> None:
    bundle = open_bundle(world.store, world.engine)
    assert bundle.kind == "engine"
    assert set(bundle.files) == {"trunk.onnx", "encoder.onnx", "decoder.onnx", "text.onnx", "tokenizer.json"}
    meta = bundle.meta
    assert meta["backend"] == "onnxruntime"
    assert meta["sources"]["student"] == world.student
    assert meta["text_encoder"]["runs_on"] == "graph"
    assert meta["catalog"]["dataset_version"] == world.dataset
    assert meta["precision"]["format"] == "float32"
    assert meta["latency_ms"]["batch 1"]["p95"] >= meta["latency_ms"]["batch 1"]["p50"] > 0
    assert meta["opset"] == 18
    assert set(meta["graphs"]) == GRAPHS
    assert all(set(facts["operators"]) <= ALLOWED for facts in meta["graphs"].values())
    assert all(bundle.files[name].sha256 == digest for name, digest in meta["onnx_sha256"].items())


def test_graphs_name_no_file_of_the_machine_that_made_them(world: World) -> None:
    bundle = open_bundle(world.store, world.engine)
    assert b"site-packages" not in bundle.read("trunk.onnx") + bundle.read("text.onnx")


def test_a_model_in_the_wrong_place_is_refused(world: World) -> None:
    from training.models.io import load_model

    autoencoder, teacher = load_model(world.store, world.autoencoder), load_model(world.store, world.teacher)
    student = load_model(world.store, world.student)
    with pytest.raises(BackdropError, match="no student"):
        check_models(autoencoder, teacher)
    with pytest.raises(BackdropError, match="autoencoder"):
        check_models(teacher, teacher)
    with pytest.raises(BackdropError, match="masked_decoder"):
        check_models(autoencoder, student, autoencoder)


class Matrix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).softmax(1)


def matrix() -> Export:
    torch.manual_seed(0)
    return Export(Matrix(), {"x": torch.zeros(2, 64)}, {"x": {0: (1, "batch")}})


def test_large_weights_lie_beside_the_graph(tmp_path: Path) -> None:
    export = matrix()
    model = to_onnx(export, 18).model
    write_onnx(model, tmp_path / "whole.onnx")
    write_onnx(model, tmp_path / "split.onnx", external_from=1 << 10)
    whole, split = OnnxModel.at(tmp_path / "whole.onnx"), OnnxModel.at(tmp_path / "split.onnx")
    assert set(whole.files) == {"whole.onnx"}
    assert set(split.files) == {"split.onnx", "split.onnx.data"}
    assert len(split.graph) < 2000 < len(whole.graph)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 64), np.float32)}
    assert np.array_equal(OrtGraph(whole)(feeds), OrtGraph(split)(feeds))
    (tmp_path / "split.onnx.data").write_bytes(b"short")
    with pytest.raises(BackdropError, match=r"cannot load split\.onnx"):
        OrtGraph(split)


def test_an_operator_that_not_every_engine_has_is_refused() -> None:
    model = to_onnx(matrix(), 18).model
    assert check_operators("it", model)["Softmax"] == 1
    model.graph.node[0].op_type = "MatMulInteger"
    with pytest.raises(BackdropError, match="1 × MatMulInteger"):
        check_operators("it", model)
    model.opset_import[0].version = 11
    with pytest.raises(BackdropError, match="opset 11"):
        check_operators("it", model)
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    model.graph.node[0].domain = "com.example"
    with pytest.raises(BackdropError, match=r"com\.example"):
        check_operators("it", model)


def test_a_bad_row_fails_the_check_and_is_named() -> None:
    rows = [ParityRow("encoder", "1 × 32 × 32", 1e-7, 1e-4), ParityRow("trunk", "3 × 32 × 32", 2e-3, 1e-4)]
    check = parity_check(rows)
    assert not check.passed
    assert check.metadata["worst"] == "trunk at 3 × 32 × 32"


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Off:
    """A graph that is off by what half precision explains."""

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        return feeds["x"] * np.float32(1 + 5e-4)

    def close(self) -> None:
        pass


def test_each_graph_is_judged_by_its_own_format() -> None:
    """What half precision explains in the trunk is a fault in the text graph, which stays float32."""
    section = ExportSection(precision="float16")
    allowed = largest_errors(section, ("trunk", "text"), section.tolerance, TOLERANCE)
    assert allowed == {"trunk": 2e-3, "text": 1e-5}
    feeds = {name: {"x": np.ones((1, 4), np.float32)} for name in allowed}
    rows = check_parity(dict.fromkeys(allowed, Off()), dict.fromkeys(allowed, Same()), [Probe("1", feeds)], allowed)
    check = parity_check(rows)
    assert not check.passed
    assert (check.metadata["worst"], check.metadata["tolerance"]) == ("text at 1", 1e-5)
    assert parity_check(rows[:1]).passed
    assert set(largest_errors(section, ("trunk", "text"), 0.1, TOLERANCE).values()) == {0.1}


def test_nodes_are_compared_on_small_pictures(world: World) -> None:
    from training.models.io import load_model
    from training.models.text_encoder import TextEncoder

    autoencoder = load_model(world.store, world.autoencoder)
    maker = Probes(np.zeros((1, 3, 1024, 512), np.float32), ("a mug",), seed=0, patch=2)
    sizes = [probe.feeds["trunk"]["z"].shape for probe in maker.inside(autoencoder, TextEncoder(None), False)]
    assert sizes == [(3, 8, 2 * INSIDE_GRID, 2 * INSIDE_GRID), (2, 8, 2 * (INSIDE_GRID - 1), 2 * (INSIDE_GRID + 2))]


def test_what_the_second_process_refuses_is_said_by_the_first(world: World, tmp_path: Path) -> None:
    images = np.zeros((1, 3, 32, 32), np.float32)
    asked = Beside(
        world.store.uri, world.autoencoder, None, str(tmp_path / "no-encoder"), ExportSection().model_dump_json(),
        images, ("a mug",), 0, 2, tmp_path,
    )  # fmt: skip
    with building_beside(asked) as others, pytest.raises(BackdropError, match="no-encoder") as refused:
        others()
    assert refused.value.remedy


def test_settings_that_no_engine_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_sizes has 8, more pictures than batch"):
        ExportSection(batch_sizes=(1, 8))
    assert ExportSection(batch_sizes=(8,), batch=8).batch == 8
    for values, key in (({"batch_sizes": ()}, "batch_sizes"), ({"batch_sizes": (0,)}, "batch_sizes"),
                        ({"text_length": 256}, "text_length")):  # fmt: skip
        with pytest.raises(ValueError, match=key):
            ExportSection(**values)  # type: ignore[arg-type]


def test_relative_l2() -> None:
    ones = np.ones((2, 2), np.float32)
    assert relative_l2(ones, ones) == 0
    assert relative_l2(ones * 1.1, ones) == pytest.approx(0.1, rel=1e-5)
    assert relative_l2(ones[:1], ones) == float("inf")
    assert relative_l2(ones * np.nan, ones) == float("inf")
