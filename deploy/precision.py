"""Number formats baked into a graph: everything in half precision but for islands of float32, the casts written out.

A strongly typed TensorRT network takes types from the file, and so does ONNX Runtime: what the CPU checks is the graph
that the GPU runs. Inputs and outputs stay float32, and so do tensors' names, by which `deploy.nodes` compares them.

Islands. A time in [0, 1] times 1000 has no more than a digit after the point in float16, and its sine is noise
(facts/deploy.md §5: 1.7e-2 there, 1.6e-3 elsewhere): whatever leads to a sine or cosine stays float32, and so do the
modules that a recipe names. Softmax does not: an island there keeps TensorRT from fusing the attention (§2.6).
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from infra.errors import BackdropError, nearest

if TYPE_CHECKING:
    from torch import nn

Format = Literal["float32", "float16", "bfloat16"]
TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
TOLERANCE: dict[str, float] = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Largest relative L2 of an output. bfloat16 has three bits less than float16."""
NODE_TOLERANCE = {**TOLERANCE, "float32": 1e-4}
"""The same of a node inside: the sine of 3000 has lost three digits in float32, too; no output shows it."""
ISLANDS = ("ScalarEmbedder",)
"""Modules by the name of their class: the embeddings of time, step and guidance. A few vectors: they cost nothing."""
ANGLES = frozenset({"Sin", "Cos"})
#: Inputs that stay float32 by ONNX's own types: regions and scales of a resize.
_ALWAYS_FLOAT = {"Resize": (1, 2)}
_SUBGRAPHS = frozenset({"If", "Loop", "Scan"})
_CLASSES = "pkg.torch.onnx.class_hierarchy"


@dataclass(frozen=True)
class Recipe:
    """Which format, and which modules keep float32 beside the angles; part of an engine's manifest and cache key."""

    format: Format = "float32"
    islands: tuple[str, ...] = ISLANDS

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "islands": list(self.islands), "angles": sorted(ANGLES), "version": 1}


@dataclass
class Baked:
    """What a recipe did to one graph."""

    islands: list[str] = field(default_factory=list)  # names of the nodes that stay float32
    lowered: int = 0
    casts: int = 0
    clamped: list[str] = field(default_factory=list)  # constants with values beyond the format's range


def check_islands(islands: Collection[str], models: Iterable[nn.Module]) -> None:
    """Raises BackdropError for an island that is no class of a module in `models`: it would be ignored."""
    known = sorted({type(module).__name__ for model in models for module in model.modules()})
    for name in islands:
        if name not in known:
            raise BackdropError(
                f"export.islands names {name!r}, which no module of these models is.{nearest(name, known)}",
                f"Classes of modules are: {', '.join(known)}.",
            )


def bake(model: ModelProto, recipe: Recipe) -> Baked:
    """Change `model` in place to what the recipe says. Raises BackdropError for graphs within graphs."""
    baked = Baked()
    if recipe.format == "float32":
        return baked
    graph = model.graph
    inner = [node.op_type for node in graph.node if node.op_type in _SUBGRAPHS]
    if inner:
        raise BackdropError(
            f"The graph has {', '.join(inner)}, inside which formats cannot be set.", "Export it in float32."
        )
    floats = _float_tensors(graph)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    islands = _islands(graph, floats, recipe.islands)
    islands |= {index for index, node in enumerate(graph.node) if not _exists(node, opset, recipe.format)}
    _Writer(graph, TYPES[recipe.format], floats, islands, baked).write()
    del graph.value_info[:]
    return baked


def _float_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of all float32 tensors, by the exporter's own statements. Raises BackdropError for a tensor without one."""
    known = {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.value_info, *graph.input, *graph.output)}
    known |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    missing = [name for node in graph.node for name in node.output if name and name not in known]
    if missing:
        raise BackdropError(f"The graph does not say the type of {missing[0]}.", "Export it anew with this release.")
    return {name for name, kind in known.items() if kind == TensorProto.FLOAT}


def _islands(graph: onnx.GraphProto, floats: set[str], classes: tuple[str, ...]) -> set[int]:
    """Indices of the nodes that stay float32."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
    island = {index for index, node in enumerate(graph.node) if _classes(node) & set(classes)}
    todo = [index for index, node in enumerate(graph.node) if node.op_type in ANGLES]
    seen = set(todo)
    while todo:  # all floats on the way to an angle
        for name in graph.node[todo.pop()].input:
            index = maker.get(name)
            if index is not None and name in floats and index not in seen:
                seen.add(index)
                todo.append(index)
    return island | seen


def _exists(node: NodeProto, opset: int, form: str) -> bool:
    """Whether ONNX defines the operator for this format; Einsum, for one, has no bfloat16."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    sides = ((schema.inputs, node.input), (schema.outputs, node.output))
    used = {
        formals[min(k, len(formals) - 1)].type_str for formals, names in sides for k, name in enumerate(names) if name
    }
    return all(
        f"tensor({form})" in constraint.allowed_type_strs
        for constraint in schema.type_constraints
        if constraint.type_param_str in used and "tensor(float)" in constraint.allowed_type_strs
    )


def _classes(node: NodeProto) -> set[str]:
    """Class names of the modules that a node lies in."""
    for entry in node.metadata_props:
        if entry.key == _CLASSES:
            return {str(name).rpartition(".")[2] for name in ast.literal_eval(entry.value)}
    return set()


class _Writer:
    """Rewrites one graph, node by node in its own order."""

    def __init__(self, graph: onnx.GraphProto, low: int, floats: set[str], islands: set[int], baked: Baked) -> None:
        self._graph, self._low, self._floats, self._islands, self._baked = graph, low, floats, islands, baked
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._is: dict[str, int] = dict.fromkeys((entry.name for entry in graph.input), TensorProto.FLOAT)
        self._copies: dict[tuple[str, int], str] = {}
        self._nodes: list[NodeProto] = []
        self._new: list[TensorProto] = []
        self._uses: dict[str, set[int]] = defaultdict(set)

    def write(self) -> None:
        outputs = {entry.name for entry in self._graph.output}
        for index, node in enumerate(self._graph.node):
            kind = TensorProto.FLOAT if index in self._islands else self._low
            touches = any(name in self._floats for name in (*node.input, *node.output))
            if touches:
                self._node(index, node, kind)
            self._nodes.append(node)
            for place, name in enumerate(node.output):
                if name not in self._floats:
                    continue
                self._is[name] = kind
                if name in outputs and kind != TensorProto.FLOAT:
                    self._as_float32_output(node, place, name)
        unused = {
            name for name in self._constants if name in self._floats and TensorProto.FLOAT not in self._uses[name]
        }
        kept = [tensor for tensor in self._graph.initializer if tensor.name not in unused]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend([*kept, *self._new])

    def _node(self, index: int, node: NodeProto, kind: int) -> None:
        always = _ALWAYS_FLOAT.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if name in self._floats:
                node.input[place] = self._as(name, TensorProto.FLOAT if place in always else kind)
        if kind == TensorProto.FLOAT:
            self._baked.islands.append(node.name)
            return
        self._baked.lowered += 1
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and node.output[0] in self._floats:
                attribute.i = kind
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(self._lowered(attribute.t, attribute.t.name or node.name))

    def _as(self, name: str, kind: int) -> str:
        """The name under which tensor `name` is of type `kind`; made where it is not there yet."""
        if name in self._constants:
            self._uses[name].add(kind)
        elif self._is[name] == kind:
            return name
        if kind == TensorProto.FLOAT and name in self._constants:
            return name
        copy = self._copies.get((name, kind))
        if copy is None:
            copy = f"{name}_as_{helper.tensor_dtype_to_string(kind).rpartition('.')[2].lower()}"
            self._copies[name, kind] = copy
            if name in self._constants:
                self._new.append(self._lowered(self._constants[name], copy))
            else:
                self._cast(name, copy, kind)
        return copy

    def _cast(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind))
        self._baked.casts += 1

    def _as_float32_output(self, node: NodeProto, place: int, name: str) -> None:
        """The graph's output keeps its name and type; what follows inside reads the tensor before the cast."""
        inner = f"{name}_inner"
        node.output[place] = inner
        self._cast(inner, name, TensorProto.FLOAT)
        self._is[name] = TensorProto.FLOAT
        self._copies[name, self._low] = inner

    def _lowered(self, tensor: TensorProto, name: str) -> TensorProto:
        values = numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(self._low)
        top = 65504.0 if self._low == TensorProto.FLOAT16 else float(np.finfo(np.float32).max) * (1 - 2.0**-8)
        finite = np.where(np.isfinite(values), np.clip(values, -top, top), values)
        if not np.array_equal(finite, values, equal_nan=True):
            self._baked.clamped.append(tensor.name)
        return numpy_helper.from_array(finite.astype(dtype), name)


def emulated(model: ModelProto) -> ModelProto:
    """The same graph for a machine that has no bfloat16: float32 throughout, rounded wherever the original rounds.

    ONNX Runtime's CPU kernels know no bfloat16 but for casts. Run it without graph optimisations, which would take
    the pairs of casts away.
    """
    low = TensorProto.BFLOAT16
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    rounds = {entry.name for entry in inferred.value_info if entry.type.tensor_type.elem_type == low}
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == low:
            tensor.CopyFrom(_widened(tensor))
    nodes: list[NodeProto] = []
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == low:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == low:
                attribute.t.CopyFrom(_widened(attribute.t))
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in rounds:
                node.output[place] = f"{name}_exact"
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_short"], to=low))
                nodes.append(helper.make_node("Cast", [f"{name}_short"], [name], to=TensorProto.FLOAT))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy whose large constants have types and shapes alone: inference goes through a message of two gigabytes."""
    light = ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if len(tensor.raw_data) > 1024:  # a shape is smaller
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
    return light


def _widened(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
