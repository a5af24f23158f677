"""Which operators a graph may have: those that TensorRT 10 and 11 take from ONNX as well as ONNX Runtime does.

The list is onnx-tensorrt's table (docs/operators.md), less what it restricts in ways that no graph of ours needs. A
graph outside it would run on a CPU and fail on the GPU that it is made for, so it is refused when it is exported.
"""

from __future__ import annotations

from onnx import ModelProto

from infra.errors import BackdropError

OPSETS = range(18, 23)
"""18 has what the exporter writes; up to 22 both releases of TensorRT read."""
IR_VERSIONS = range(8, 12)
ALLOWED = frozenset(
    """
    Abs Add And ArgMax ArgMin AveragePool Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos CumSum
    DepthToSpace Div Einsum Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater
    GreaterOrEqual GroupNormalization Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log
    MatMul Max MaxPool Min Mul Neg Not Or Pad Pow Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum Relu Reshape Resize Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size Slice Softmax
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where
    """.split()
)


def check_operators(name: str, model: ModelProto) -> dict[str, int]:
    """How often each operator occurs. Raises BackdropError naming what `name` has that is not allowed."""
    domains = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    opset = domains.pop("ai.onnx", 0)
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    problems = []
    if opset not in OPSETS:
        problems.append(f"opset {opset} (allowed: {OPSETS.start} to {OPSETS.stop - 1})")
    if model.ir_version not in IR_VERSIONS:
        problems.append(f"IR version {model.ir_version} (allowed: {IR_VERSIONS.start} to {IR_VERSIONS.stop - 1})")
    if used or model.functions:
        problems.append(f"functions or operators of {', '.join(sorted(used)) or 'its own'}, beside ONNX's")
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    problems += [f"{count} × {kind}" for kind, count in sorted(counts.items()) if kind not in ALLOWED]
    if problems:
        raise BackdropError(
            f"{name} has what not every engine can run: {'; '.join(problems)}.",
            "Write the module with other operations, or add the operator to deploy/operators.py if TensorRT takes it.",
        )
    return dict(sorted(counts.items()))
