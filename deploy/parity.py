"""Does the engine compute what PyTorch computes? Every graph, on shapes that the export never saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.engines.protocol import Graph
from deploy.nodes import FAR
from deploy.probes import Probe
from infra.jobs.spec import Check


@dataclass(frozen=True)
class ParityRow:
    """One comparison: which graph, at which shape, its relative L2 error, and how large that may be."""

    graph: str
    shape: str
    relative_l2: float
    tolerance: float


def check_parity(
    graphs: Mapping[str, Graph],
    modules: Mapping[str, nn.Module],
    probes: Iterable[Probe],
    tolerances: Mapping[str, float],
) -> list[ParityRow]:
    """Each graph against the PyTorch module of its name, which takes the same inputs, on every probe."""
    rows = []
    for probe in probes:
        for name, graph in graphs.items():
            feeds = probe.feeds[name]
            with torch.inference_mode():
                expected = modules[name](**{key: torch.from_numpy(array) for key, array in feeds.items()})
            error = relative_l2(graph(feeds), expected.numpy())
            rows.append(ParityRow(name, probe.shape, error, tolerances[name]))
    return rows


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    """‖got − expected‖ / ‖expected‖; infinite when shapes differ or a value is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(got.astype(np.float64) - expected.astype(np.float64)))
    return error / scale if scale else error


def worst(rows: Sequence[ParityRow]) -> ParityRow:
    """The row that exceeds its tolerance most, or comes nearest to it. Raises ValueError when there is none."""
    return max(rows, key=lambda row: row.relative_l2 / row.tolerance)


def parity_check(rows: Sequence[ParityRow]) -> Check:
    """Passed when no row is worse than its tolerance; carries the whole table and names the worst row."""
    bad = worst(rows)
    return Check(
        name="engine_parity",
        passed=bool(bad.relative_l2 <= bad.tolerance),
        metadata={
            "worst": f"{bad.graph} at {bad.shape}",
            "worst_relative_l2": min(bad.relative_l2, FAR),
            "tolerance": bad.tolerance,
            "table": table(rows),
        },
    )


def table(rows: Sequence[ParityRow]) -> list[dict[str, Any]]:
    """The rows as JSON, which has no infinity."""
    return [{**asdict(row), "relative_l2": min(row.relative_l2, FAR)} for row in rows]
