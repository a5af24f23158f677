"""What the inspector says a plan consists of. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_FUSED = re.compile(r"mha|fmha|flash_?att|fused_?att|attention", re.IGNORECASE)
"""How TensorRT names kernels of fused attention: `_gemm_mha_v2` (10), `fmha_v2_flash_attention_fp16…`."""


@dataclass(frozen=True)
class LayerSummary:
    """How many layers there are, and of what kind."""

    layers: int
    fused_attention: int
    float32: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def summarise(said: Mapping[str, Any]) -> LayerSummary:
    """From the inspector's JSON, whose layers are objects where verbosity was detailed and plain names otherwise."""
    layers = list(said.get("Layers", []))
    return LayerSummary(len(layers), sum(_is_fused(layer) for layer in layers), sum(map(_is_float32, layers)))


def _is_fused(layer: Any) -> bool:
    if not isinstance(layer, Mapping):
        return bool(_FUSED.search(str(layer)))
    return any(_FUSED.search(str(layer.get(name, ""))) for name in ("Name", "LayerType", "TacticName"))


def _is_float32(layer: Any) -> bool:
    outputs = layer.get("Outputs", []) if isinstance(layer, Mapping) else []
    return any("FP32" in str(output.get("Format/Datatype", "")) for output in outputs)


def expected_fusions(graph: bytes) -> int:
    """How many attentions TensorRT should fuse, in half precision only: every softmax of several heads, thus over four
    dimensions, between two products. One wide head over three (`NegativeText`) has no fused kernel.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    half = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    if not any(tensor.data_type in half for tensor in model.graph.initializer):
        return 0
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {entry.name: entry.type.tensor_type for entry in (*inferred.value_info, *inferred.output)}
    ranks = {name: len(kind.shape.dim) for name, kind in shapes.items() if kind.HasField("shape")}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return sum(
        node.op_type == "Softmax"
        and ranks.get(node.output[0], 4) == 4
        and any(user.op_type == "MatMul" for user in users.get(node.output[0], []))
        for node in model.graph.node
    )
