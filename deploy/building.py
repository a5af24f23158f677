"""Modules become graphs: exported, lowered to the recipe's format, held to the allowed operators, compared by node.

The exporter is single-threaded Python, so the trunk is built in the job's process and the rest in a second one.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deploy.engines.model import OnnxModel
from deploy.engines.protocol import GRAPHS
from deploy.graphs import Export, decoder_export, encoder_export, text_export, to_onnx, write_onnx
from deploy.nodes import NodeRow, compare_nodes, merge
from deploy.operators import check_operators
from deploy.precision import Recipe, bake
from deploy.probes import Probe, Probes
from infra.errors import BackdropError, ServiceError
from infra.object_store import open_store
from training.models.io import load_model
from training.models.text_encoder import TextEncoder
from training.presets.sections import ExportSection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltGraph:
    """A graph as it is shipped, and what is known of it."""

    model: OnnxModel
    nodes: list[NodeRow]
    facts: dict[str, Any]  # format, ir_version, operators, islands, lowered, casts, clamped


FLOAT32 = frozenset({"text"})
"""Graphs that keep float32: run once per caption, they cost little, and encoders as T5 overflow in float16."""
FAILED = "beside.failed.json"
"""What the second process leaves when it ends with a clear message: the message."""


def recipe_of(section: ExportSection, name: str = "trunk") -> Recipe:
    """What graph `name` is baked by."""
    return Recipe("float32" if name in FLOAT32 else section.precision, section.islands)


def largest_errors(
    section: ExportSection, graphs: Iterable[str], given: float | None, by_format: Mapping[str, float]
) -> dict[str, float]:
    """Graph → the error that it may have: what the settings give, or what the format explains that it was baked to."""
    return {name: given or by_format[recipe_of(section, name).format] for name in graphs}


def build_graph(name: str, export: Export, section: ExportSection, probes: Sequence[Probe], folder: Path) -> BuiltGraph:
    """Build graph `name` into `folder`, compared by node on `probes`.

    Raises BackdropError for operators that not every engine can run.
    """
    exported = to_onnx(export, section.opset)
    exact, baked = exported.model, onnx.ModelProto()
    baked.CopyFrom(exact)
    recipe = recipe_of(section, name)
    done = bake(baked, recipe)
    counts = check_operators(GRAPHS[name], baked)
    rows = merge(
        compare_nodes(name, exported.program, exact, baked, probe.shape, probe.feeds[name]) for probe in probes
    )
    facts = {"format": recipe.format, "ir_version": int(baked.ir_version), "operators": counts, **asdict(done)}
    path = folder / GRAPHS[name]
    write_onnx(baked, path)
    return BuiltGraph(OnnxModel.at(path, recipe.format), rows, facts)


@dataclass(frozen=True)
class Beside:
    """What the second process is asked for; goes through pickle."""

    store: str
    autoencoder: str
    masked_decoder: str | None
    text_encoder: str | None
    section: str  # ExportSection as JSON
    images: np.ndarray
    captions: tuple[str, ...]
    seed: int
    patch: int
    folder: Path


@contextmanager
def building_beside(asked: Beside) -> Iterator[Callable[[], dict[str, BuiltGraph]]]:
    """Build encoder, decoder and text meanwhile; yields the call that waits for them.

    Without "text" where the encoder at hand cannot be exported: the log says why, and PyTorch embeds the captions.
    """
    asked.folder.mkdir(parents=True, exist_ok=True)
    (asked.folder / FAILED).unlink(missing_ok=True)  # of an earlier try
    process = multiprocessing.get_context("spawn").Process(
        target=_build_beside, args=(asked,), daemon=True, name="graphs-beside"
    )
    process.start()

    def wait() -> dict[str, BuiltGraph]:
        process.join()
        if process.exitcode and (asked.folder / FAILED).exists():
            error = ServiceError if process.exitcode == ServiceError.exit_code else BackdropError
            raise error(**json.loads((asked.folder / FAILED).read_text()))
        if process.exitcode:
            raise RuntimeError(f"exporting the autoencoder ended with exit code {process.exitcode}; see the log above")
        found: Mapping[str, Any] = json.loads((asked.folder / "beside.json").read_text())
        return {
            name: BuiltGraph(
                OnnxModel.at(asked.folder / GRAPHS[name], entry["facts"]["format"]),
                [NodeRow(**row) for row in entry["nodes"]],
                entry["facts"],
            )
            for name, entry in found.items()
        }

    try:
        yield wait
    finally:
        process.terminate()
        process.join()


def _build_beside(asked: Beside) -> None:
    try:
        _build_others(asked)
    except BackdropError as error:
        (asked.folder / FAILED).write_text(json.dumps({"what": error.what, "remedy": error.remedy}))
        raise SystemExit(error.exit_code) from None


def _build_others(asked: Beside) -> None:
    store, section = open_store(asked.store), ExportSection.model_validate_json(asked.section)
    autoencoder = load_model(store, asked.autoencoder)
    masked = load_model(store, asked.masked_decoder) if asked.masked_decoder else None
    text_encoder = TextEncoder(asked.text_encoder, length=section.text_length)
    probes = list(
        Probes(asked.images, asked.captions, asked.seed, asked.patch).inside(
            autoencoder, text_encoder, masked is not None
        )
    )
    built = {
        "encoder": build_graph("encoder", encoder_export(autoencoder), section, probes, asked.folder),
        "decoder": build_graph("decoder", decoder_export(autoencoder, masked), section, probes, asked.folder),
    }
    try:
        built["text"] = build_graph("text", text_export(text_encoder), section, probes, asked.folder)
    except Exception as error:  # any encoder may be given, and the exporter fails in many ways
        log.warning("the text encoder does not become a graph, so PyTorch embeds the captions: %s", error)
    entries = {name: {"nodes": [asdict(row) for row in one.nodes], "facts": one.facts} for name, one in built.items()}
    (asked.folder / "beside.json").write_text(json.dumps(entries))
