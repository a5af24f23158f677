"""Formats baked into graphs: lower everywhere but on the islands, and close to PyTorch at every node."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from deploy.engines.model import OnnxModel
from deploy.engines.onnxruntime import OrtGraph
from deploy.graphs import Export, Exported, MaskedDecoderGraph, decoder_export, to_onnx, write_onnx
from deploy.nodes import NodeRow, compare_nodes, merge, node_check, summary
from deploy.parity import relative_l2
from deploy.precision import NODE_TOLERANCE, TOLERANCE, Recipe, bake, check_islands
from infra.errors import BackdropError
from training.models.dit import ScalarEmbedder


class Small(nn.Module):
    """A time's embedding, an attention with a mask, a norm: what is delicate in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.time_in = ScalarEmbedder(32)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.huge = nn.Parameter(torch.tensor([1e-9, 1e9, -1e9]), requires_grad=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x = nn.functional.layer_norm(x + self.time_in(t)[:, None], (32,))
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 32**0.5
        scores = scores.masked_fill(seen[:, None] == 0, float("-inf"))
        return scores.softmax(2) @ self.v(x) + self.huge.clamp(-1, 1).sum()


@pytest.fixture(scope="module")
def exported() -> Exported:
    torch.manual_seed(0)
    inputs = {"x": torch.zeros(2, 5, 32), "t": torch.rand(2), "seen": torch.ones(2, 5, dtype=torch.int64)}
    free = {0: (1, "batch"), 1: (1, "tokens")}
    return to_onnx(Export(Small(), inputs, {"x": free, "t": {0: (1, "batch")}, "seen": free}), 18)


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    seen = np.ones((3, 7), np.int64)
    seen[1, 4:] = 0
    times = np.array([0.3, 0.777, 0.999], np.float32)
    return {"x": rng.standard_normal((3, 7, 32), np.float32), "t": times, "seen": seen}


def baked(exported: Exported, recipe: Recipe) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    bake(model, recipe)
    return model


@pytest.mark.parametrize("form", ["float32", "float16", "bfloat16"])
def test_every_node_is_as_close_to_pytorch_as_its_format_allows(exported: Exported, form: str) -> None:
    model = baked(exported, Recipe(form))  # type: ignore[arg-type]
    onnx.checker.check_model(model, full_check=True)
    rows = compare_nodes("small", exported.program, exported.model, model, "3 × 7", feeds())
    told = summary(rows, {"small": NODE_TOLERANCE[form]})
    assert told["passed"], told["worst"][0]
    assert told["compared"]["pytorch"] > 20
    with torch.inference_mode():
        expected = exported.program.module()(**{name: torch.from_numpy(array) for name, array in feeds().items()})
    got = OrtGraph(OnnxModel("small.onnx", model.SerializeToString(), precision=form))(feeds())
    assert got.dtype == np.float32
    assert relative_l2(got, expected.numpy()) <= TOLERANCE[form]


def test_the_time_s_embedding_is_an_island_and_the_attention_is_not(exported: Exported) -> None:
    model = baked(exported, Recipe("float16"))
    types = {
        entry.name: entry.type.tensor_type.elem_type
        for entry in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    of = {
        kind: {types[name] for name, op in made.items() if op == kind and name in types} for kind in set(made.values())
    }
    assert of["Sin"] == of["Cos"] == of["Gemm"] == {TensorProto.FLOAT}
    assert of["Softmax"] == of["LayerNormalization"] == {TensorProto.FLOAT16}
    weights = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2 and tensor.dims[0] == 32}
    assert TensorProto.FLOAT16 in weights


def test_without_the_island_the_gate_names_the_angle(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.precision.ANGLES", frozenset())
    model = baked(exported, Recipe("float16", islands=()))
    rows = compare_nodes("small", exported.program, exported.model, model, "3 × 7", feeds())
    told = summary(rows, {"small": NODE_TOLERANCE["float16"]})
    assert not told["passed"]
    assert told["worst"][0]["operator"] in {"Sin", "Cos", "Concat", "Gemm", "Mul", "Sigmoid"}
    assert told["worst"][0]["relative_l2"] > 1e-2


def test_what_a_format_cannot_hold_is_clamped_and_told() -> None:
    def model(kind: int) -> onnx.ModelProto:
        big = numpy_helper.from_array(np.array([1e9, -np.inf, 1.0], np.float32), "big")
        graph = helper.make_graph(
            [helper.make_node("Max", ["x", "big"], ["y"])], "g",
            [helper.make_tensor_value_info("x", kind, [3])], [helper.make_tensor_value_info("y", kind, [3])], [big],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    lowered = model(TensorProto.FLOAT)
    assert bake(lowered, Recipe("float16")).clamped == ["big"]
    got = OrtGraph(OnnxModel("g", lowered.SerializeToString()))({"x": np.zeros(3, np.float32)})
    assert got.tolist() == [65504.0, 0.0, 1.0]


def test_graphs_inside_graphs_are_refused() -> None:
    node = helper.make_node("If", ["c"], ["y"])
    graph = helper.make_graph([node], "g", [], [])
    with pytest.raises(BackdropError, match="has If"):
        bake(helper.make_model(graph), Recipe("float16"))


def test_a_cancelled_node_is_judged_absolutely_and_listed() -> None:
    class Cancels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + 1.0) - x.relu() - 1.0

    exported = to_onnx(Export(Cancels(), {"x": torch.ones(2, 3)}, {"x": {0: (1, "batch")}}), 18)
    x = np.random.default_rng(0).uniform(0.5, 1, (4, 3)).astype(np.float32)
    model = baked(exported, Recipe("float16"))
    told = summary(compare_nodes("c", exported.program, exported.model, model, "4", {"x": x}), {"c": 2e-3})
    assert told["passed"]
    assert [row["operator"] for row in told["judged_absolutely"]] == ["Sub"]
    assert told["judged_absolutely"][0]["relative_l2"] > 1


def test_the_worst_node_is_shown_with_the_error_that_it_was_judged_by() -> None:
    """A node that cancelled its inputs is far off relative to itself: that number is not the one that counts."""
    rows = [
        NodeRow("trunk", "sub_1", "Sub", "4", relative_l2=7.0, absolute=3e-3, cancelled=True, against="pytorch"),
        NodeRow("trunk", "linear", "Gemm", "4", relative_l2=1e-3, absolute=9.0, cancelled=False, against="pytorch"),
    ]
    check = node_check(summary(rows, {"trunk": 2e-3}))
    assert not check.passed
    shown = ("sub_1 (Sub) of trunk at 4", 3e-3, "root mean square")
    assert (check.metadata["worst"], check.metadata["worst_error"], check.metadata["kind"]) == shown
    assert node_check(summary(rows[1:], {"trunk": 2e-3})).metadata["worst_error"] == 1e-3


def test_a_graph_s_nodes_are_judged_by_its_own_format() -> None:
    rows = [
        NodeRow("trunk", "a", "Gemm", "4", 1e-3, 0.0, False, "pytorch"),
        NodeRow("text", "b", "Gemm", "4", 5e-4, 0.0, False, "pytorch"),
    ]
    told = summary(rows, {"trunk": 2e-3, "text": 1e-4})
    assert not told["passed"]
    assert [row["node"] for row in told["worst"]] == ["b", "a"]  # by what each exceeds
    assert told["worst"][0]["tolerance"] == 1e-4
    assert summary(rows, {"trunk": 2e-3, "text": 1e-3})["passed"]


def test_an_island_that_no_module_is_is_refused() -> None:
    check_islands(("ScalarEmbedder", "Linear"), [Small()])
    with pytest.raises(BackdropError, match=r"names 'ScalarEmbeder'.*Did you mean 'ScalarEmbedder'"):
        check_islands(("ScalarEmbeder",), [Small()])


def test_bfloat16_with_its_weights_beside_it_is_emulated(exported: Exported, tmp_path: Path) -> None:
    model = baked(exported, Recipe("bfloat16"))
    whole = OrtGraph(OnnxModel("small.onnx", model.SerializeToString(), precision="bfloat16"))(feeds())
    write_onnx(model, tmp_path / "small.onnx", external_from=1)
    split = OnnxModel.at(tmp_path / "small.onnx", "bfloat16")
    assert split.folder is not None
    assert np.array_equal(OrtGraph(split)(feeds()), whole)


def test_of_several_shapes_each_node_keeps_its_worst(exported: Exported) -> None:
    model = baked(exported, Recipe("float16"))
    one = compare_nodes("small", exported.program, exported.model, model, "one", feeds())
    other = compare_nodes(
        "small", exported.program, exported.model, model, "two", {**feeds(), "t": feeds()["t"][::-1].copy()}
    )
    both = merge([one, other])
    assert len(both) == len(one)
    errors = {row.node: max(row.error, second.error) for row, second in zip(one, other, strict=True)}
    assert all(row.error == errors[row.node] for row in both)


def test_a_masked_decoder_is_a_graph_of_its_own() -> None:
    from training.models.autoencoder import Autoencoder, AutoencoderConfig
    from training.models.decoder import MaskedDecoder

    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(width=16, depth=1))
    masked = MaskedDecoder.beside(autoencoder)
    for parameter in masked.parameters():
        nn.init.normal_(parameter, std=0.05)
    exported = to_onnx(decoder_export(autoencoder, masked), 18)
    rng = np.random.default_rng(0)
    given = {
        "latents": rng.standard_normal((3, 8, 5, 2), np.float32),
        "mask": (rng.random((3, 1, 40, 16)) < 0.5).astype(np.float32),
        "original": rng.standard_normal((3, 3, 40, 16), np.float32),
    }
    with torch.inference_mode():
        expected = MaskedDecoderGraph(masked)(**{name: torch.from_numpy(array) for name, array in given.items()})
    graph = OrtGraph(OnnxModel("decoder.onnx", exported.model.SerializeToString()))
    assert relative_l2(graph(given), expected.numpy()) < 1e-5
    hidden = {**given, "original": np.where(given["mask"] == 1, 0, given["original"]).astype(np.float32)}
    assert np.array_equal(graph(hidden), graph(given))  # what is to be made is never read
    assert not np.allclose(graph({**given, "original": -given["original"]}), graph(given))


def test_what_is_not_finite_fails_and_a_mask_s_lowest_number_does_not() -> None:
    class Masks(nn.Module):
        def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            return (x + torch.where(seen > 0, 0.0, torch.finfo(torch.float32).min)).softmax(1) * 10 * x

    example = {"x": torch.ones(2, 3), "seen": torch.ones(2, 3, dtype=torch.int64)}
    free = {0: (1, "batch")}
    exported = to_onnx(Export(Masks(), example, {"x": free, "seen": free}), 18)
    model = baked(exported, Recipe("float16"))
    x = np.random.default_rng(0).uniform(-9, 9, (4, 3)).astype(np.float32)
    given = {"x": x, "seen": np.array([[1, 1, 0]] * 4)}
    told = summary(compare_nodes("m", exported.program, exported.model, model, "4", given), {"m": 2e-3})
    assert told["passed"], told["worst"][0]
    told = summary(
        compare_nodes("m", exported.program, exported.model, model, "4", {**given, "x": x * 1e4}), {"m": 2e-3}
    )
    assert not told["passed"]
    assert json.dumps(told, allow_nan=False)
