"""Parity node by node: every tensor inside a graph against PyTorch's own, so that a fault has a name.

The exporter keeps the names of PyTorch's nodes. What it made up besides (a transposed weight, a sigmoid inside a SiLU)
is compared with the float32 graph instead, whose named tensors are held against PyTorch just the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, fx

from deploy.graphs import write_onnx
from deploy.precision import emulated
from infra.jobs.spec import Check

CANCELLED = 1e-3
"""A node whose output is this much smaller than its inputs has cancelled them: relative to it any error is large."""
MASKED = 1e30
"""A score this low is a mask's (float32's lowest number, mostly), and any format's lowest is as good."""
FAR = 1e30
"""The error of what is not finite or of another shape; JSON has no infinity."""
SHOWN = 12
"""Rows kept in a table: the worst ones."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class NodeRow:
    """One tensor. A node that `cancelled` its inputs is judged by `absolute`, the difference's root mean square."""

    graph: str
    node: str
    operator: str
    shape: str
    relative_l2: float
    absolute: float
    cancelled: bool
    against: str  # "pytorch" or "float32"

    @property
    def error(self) -> float:
        return self.absolute if self.cancelled else self.relative_l2

    def judged(self, tolerance: float) -> dict[str, Any]:
        """As JSON: with the error that counts, of which kind it is, and how large it may be."""
        kind = "root mean square" if self.cancelled else "relative L2"
        return {**asdict(self), "error": self.error, "kind": kind, "tolerance": tolerance}


def compare_nodes(
    graph: str, program: torch.export.ExportedProgram, exact: ModelProto, baked: ModelProto, shape: str, feeds: Feeds
) -> list[NodeRow]:
    """A row for every tensor of `baked` that PyTorch or the float32 graph `exact` knows, for one set of inputs."""
    mine = tensors_of(baked, feeds)
    plain = tensors_of(exact, feeds) if baked is not exact else {}
    torchs = torch_tensors(program, feeds)
    rows = []
    for node in exact.graph.node:
        for name in node.output:
            against = "pytorch" if name in torchs and torchs[name].shape == mine[name].shape else "float32"
            expected = (torchs if against == "pytorch" else plain).get(name)
            if expected is None or name not in mine:
                continue
            inputs = [_norm(known[entry]) for known in (torchs, plain, mine) for entry in node.input if entry in known]
            relative, absolute, norm = _errors(mine[name], expected)
            cancelled = bool(inputs) and norm < CANCELLED * max(inputs)
            rows.append(NodeRow(graph, name, node.op_type, shape, relative, absolute, cancelled, against))
    return rows


def tensors_of(model: ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """Every tensor that a graph's nodes compute, by name."""
    import onnxruntime

    lacks = any(node.op_type == "Cast" and _to(node) == TensorProto.BFLOAT16 for node in model.graph.node)
    copy = ModelProto()
    copy.CopyFrom(emulated(model) if lacks else model)
    names = [
        name for node in copy.graph.node for name in node.output if name and not name.endswith(("_exact", "_short"))
    ]
    known = {entry.name for entry in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory(prefix="backdrop-nodes-") as folder:
        path = Path(folder) / "nodes.onnx"
        write_onnx(copy, path)  # from a file: a message ends at two gigabytes
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {entry.name: feeds[entry.name] for entry in session.get_inputs()}
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def torch_tensors(program: torch.export.ExportedProgram, feeds: Feeds) -> dict[str, np.ndarray]:
    """Every tensor that the exported program computes in PyTorch, by its node's name."""
    recorder = _Recorder(program.module())
    with torch.inference_mode():
        recorder.run(*(torch.from_numpy(array) for array in feeds.values()))
    return recorder.seen


class _Recorder(fx.Interpreter):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module)
        self.seen: dict[str, np.ndarray] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op == "call_function":
            # Copied: a view shares its memory with what is written later.
            self.seen[n.name] = result.numpy().copy()
        return result


def _to(node: NodeProto) -> int:
    return next(attribute.i for attribute in node.attribute if attribute.name == "to")


def _norm(array: np.ndarray) -> float:
    """Of what is no mask's."""
    values = array.astype(np.float64)
    return float(np.linalg.norm(values[np.abs(values) <= MASKED]))


def _errors(got: np.ndarray, expected: np.ndarray) -> tuple[float, float, float]:
    """(relative L2, root mean square of the difference, expected norm). Equal infinities are equal."""
    if got.shape != expected.shape:
        return FAR, FAR, 0.0
    ours, theirs = got.astype(np.float64), expected.astype(np.float64)
    same = (ours == theirs) | ((np.abs(theirs) > MASKED) & (np.sign(ours) == np.sign(theirs)) & (np.abs(ours) > 6e4))
    ours, theirs = np.where(same, 0.0, ours), np.where(same, 0.0, theirs)
    difference, norm = ours - theirs, _norm(expected)
    if not np.isfinite(difference).all():
        return FAR, FAR, norm
    error = float(np.linalg.norm(difference))
    return (error / norm if norm else error), error / max(1, difference.size) ** 0.5, norm


def summary(rows: Sequence[NodeRow], tolerances: Mapping[str, float]) -> dict[str, Any]:
    """What a manifest keeps: the worst nodes, those judged absolutely, and how many were compared with what.

    `tolerances`: graph → the largest error of a node in it. The worst is who comes nearest to it or exceeds it most.
    """
    worst = sorted(rows, key=lambda row: row.error / tolerances[row.graph], reverse=True)
    told = [row.judged(tolerances[row.graph]) for row in worst]
    return {
        "tolerances": dict(tolerances),
        "passed": bool(rows) and all(row.error <= tolerances[row.graph] for row in rows),
        "worst": told[:SHOWN],
        "judged_absolutely": [row for row in told if row["cancelled"]][:SHOWN],
        "compared": {against: sum(row.against == against for row in rows) for against in ("pytorch", "float32")},
        "cancelled": len({(row.graph, row.node) for row in rows if row.cancelled}),
    }


def node_check(nodes: Mapping[str, Any]) -> Check:
    """Passed when no node of a `summary` is worse than its tolerance; names the worst."""
    bad = nodes["worst"][0]
    return Check(
        name="node_parity",
        passed=bool(nodes["passed"]),
        metadata={
            "worst": f"{bad['node']} ({bad['operator']}) of {bad['graph']} at {bad['shape']}",
            "worst_error": bad["error"],
            "kind": bad["kind"],
            "tolerance": bad["tolerance"],
            "table": nodes["worst"],
            "judged_absolutely": nodes["judged_absolutely"],
        },
    )


def merge(parts: Iterable[Sequence[NodeRow]]) -> list[NodeRow]:
    """Rows of several inputs as one per node: that with the largest error."""
    kept: dict[tuple[str, str], NodeRow] = {}
    for rows in parts:
        for row in rows:
            known = kept.get((row.graph, row.node))
            if known is None or row.error > known.error:
                kept[row.graph, row.node] = row
    return list(kept.values())
