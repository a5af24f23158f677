"""The verb `export`: student and autoencoder become ONNX graphs, held against PyTorch, timed, and written as an engine.

models ─► ONNX graphs ─► engine ─► parity on unseen shapes ─► latency ─► bundle with its manifest
"""

from __future__ import annotations

import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.engines import onnxruntime, tensorrt
from deploy.engines.open import choose_backend, load_graph
from deploy.engines.protocol import GRAPHS, GraphEngine
from deploy.graphs import to_onnx, trunk_export, write_autoencoder_graphs
from deploy.latency import measure
from deploy.parity import ParityRow, check_parity, table, worst
from deploy.samples import Pictures, Sample
from deploy.specs import ExportSpec
from infra.bundles import write_bundle
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.jobs.program import JobContext
from infra.jobs.spec import Check, JobResult
from training.editing import to_float
from training.models.autoencoder import Autoencoder
from training.models.dit import DiT
from training.models.io import load_model
from training.models.text_encoder import TextEncoder
from training.parts import TorchParts

PROBES = 4
PRECISION = "float32"


def run(spec: ExportSpec, job: JobContext[ExportSpec]) -> JobResult:
    """Build, check and time the engine. Raises BackdropError for models that do not fit each other."""
    started = time.monotonic()
    autoencoder, student = load_model(job.store, spec.autoencoder), load_model(job.store, spec.student)
    check_models(autoencoder, student)
    progress = partial(job.progress, "export", total=len(GRAPHS) + 2, unit="graphs")
    progress(0)
    with exporting_autoencoder(spec, job.folder / "graphs") as autoencoder_graphs:
        text_encoder = TextEncoder(spec.text_encoder, length=spec.config.text_length)
        probes = Pictures(job.store, spec.probe, spec.image_size, job.folder / "cache").any(PROBES)
        if not probes:
            raise BackdropError(
                f"Dataset version {spec.probe[:12]}… has no picture with a product mask.",
                "Add pictures with masks, or keep the sample catalogue in the mix.",
            )
        models = {"trunk": to_onnx(trunk_export(student), spec.config.opset)}
        progress(1)
        models |= autoencoder_graphs()
    progress(len(GRAPHS))

    def embed(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return text_encoder.embed(list(captions))

    manifest = describe(spec, autoencoder, student, models, text_encoder)
    backend = choose_backend(spec.config.backend)
    graphs = {
        name: load_graph(backend, name, model, manifest["profiles"][name], spec.config.threads)
        for name, model in models.items()
    }
    engine = GraphEngine(backend, graphs, embed, spec.image_size, autoencoder.config.factor)
    reference = TorchParts(autoencoder, student, embed, spec.image_size)
    rows = compare(engine, reference, probes, student.config.patch, spec.seed)
    progress(len(GRAPHS) + 1)
    latency = measure(
        engine,
        np.stack([probe.image for probe in probes]),
        np.stack([probe.product for probe in probes]),
        [probe.caption for probe in probes],
        steps=spec.config.steps,
        batch_sizes=spec.config.batch_sizes,
        runs=spec.config.latency_runs,
    )
    engine.close()
    manifest |= {
        "backend": backend,
        "backend_version": tensorrt.version() if backend == tensorrt.BACKEND else onnxruntime.version(),
        "parity": table(rows),
        "tolerance": spec.config.tolerance,
        "latency_ms": latency,
        "latency_steps": spec.config.steps,
    }
    files = {GRAPHS[name]: model for name, model in models.items()}
    bundle = write_bundle(job.store, f"{job.output}/engine", "engine", files, manifest)
    progress(len(GRAPHS) + 2)
    check = parity_check(rows, spec.config.tolerance)
    first = f"batch {spec.config.batch_sizes[0]}"
    return JobResult(
        metadata={
            "backend": backend,
            "precision": PRECISION,
            "opset": spec.config.opset,
            "worst_relative_l2": worst(rows).relative_l2,
            f"p50_ms_{first.replace(' ', '_')}": latency[first]["p50"],
            f"p95_ms_{first.replace(' ', '_')}": latency[first]["p95"],
            "megabytes": round(sum(map(len, models.values())) / 1e6, 2),
            "seconds": round(time.monotonic() - started, 1),
        },
        files={"parity": job.put_json("parity", table(rows)), "latency": job.put_json("latency", latency)},
        data={"engine": bundle, "backend": backend, "parity": table(rows), "latency_ms": latency},
        checks=[check],
    )


@contextmanager
def exporting_autoencoder(spec: ExportSpec, folder: Path) -> Iterator[Callable[[], dict[str, bytes]]]:
    """Export encoder and decoder in a second process meanwhile; yields the call that waits for them.

    The exporter is single-threaded Python: beside the trunk's export this takes no time of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (spec.store, spec.autoencoder, spec.config.opset, str(folder))
    process = multiprocessing.get_context("spawn").Process(
        target=write_autoencoder_graphs, args=arguments, daemon=True, name="autoencoder-export"
    )
    process.start()

    def wait() -> dict[str, bytes]:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"exporting the autoencoder ended with exit code {process.exitcode}; see the log above")
        return {name: (folder / GRAPHS[name]).read_bytes() for name in ("encoder", "decoder")}

    try:
        yield wait
    finally:
        process.terminate()
        process.join()


def check_models(autoencoder: object, student: object) -> None:
    """Raises BackdropError unless these are an autoencoder and a student over the same latents."""
    if not isinstance(autoencoder, Autoencoder):
        raise BackdropError("The bundle given as autoencoder holds another model.", "Give what autoencoder reported.")
    if not isinstance(student, DiT) or not student.config.flow_map:
        raise BackdropError("The bundle given as student holds no student.", "Give what distilled_model reported.")
    ours, theirs = student.config.latent_channels, autoencoder.config.latent_channels
    if ours != theirs:
        raise BackdropError(
            f"The student works on {ours} latent channels, the autoencoder makes {theirs}.",
            "Distil again from a teacher trained on this autoencoder's latents.",
        )


def compare(engine: GraphEngine, reference: TorchParts, probes: list[Sample], patch: int, seed: int) -> list[ParityRow]:
    """Parity on the probes' own pictures and captions."""
    images = np.stack([to_float(probe.image).transpose(2, 0, 1) for probe in probes])
    return check_parity(engine, reference, images, [probe.caption for probe in probes], patch, seed)


def parity_check(rows: list[ParityRow], tolerance: float) -> Check:
    """Passed when no row is worse than `tolerance`; carries the whole table and names the worst row."""
    bad = worst(rows)
    return Check(
        name="engine_parity",
        passed=bool(bad.relative_l2 <= tolerance),
        metadata={
            "worst": f"{bad.graph} at {bad.shape}",
            "worst_relative_l2": bad.relative_l2,
            "tolerance": tolerance,
            "table": table(rows),
        },
    )


def describe(
    spec: ExportSpec, autoencoder: Autoencoder, student: DiT, models: dict[str, bytes], text_encoder: TextEncoder
) -> dict[str, Any]:
    """The manifest's facts about how this engine was made; measurements are added by who took them."""
    import onnx

    factor, patch = autoencoder.config.factor, student.config.patch
    cells = max(1, spec.image_size // factor)
    return {
        "schema": 1,
        "image_size": spec.image_size,
        "factor": factor,
        "patch": patch,
        "latent_channels": student.config.latent_channels,
        "steps": spec.config.steps,
        "precision": PRECISION,
        "opset": spec.config.opset,
        "ir_version": int(onnx.load_model_from_string(models["trunk"]).ir_version),
        "onnx_sha256": {GRAPHS[name]: sha256_bytes(model) for name, model in models.items()},
        "sources": {"autoencoder": spec.autoencoder, "student": spec.student, "dataset": spec.probe},
        "text_encoder": {
            "runs_on": "pytorch",
            "sha256": text_encoder.sha256,
            "length": text_encoder.length,
            "width": text_encoder.width,
        },
        "profiles": {
            "encoder": _profile(cells),
            "decoder": _profile(cells),
            "trunk": {sizes: {**values, "tokens": tokens} for (sizes, values), tokens in zip(
                _profile(max(1, cells // patch)).items(), (1, text_encoder.length, 2 * text_encoder.length), strict=True
            )},
        },
        "producers": {
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.version(),
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
    }  # fmt: skip


def _profile(side: int) -> dict[str, dict[str, int]]:
    """Sizes a TensorRT plan is built for: batch 1 to 16, pictures from half to twice the preset's side."""
    sizes = {"low": (1, max(1, side // 2)), "best": (4, side), "high": (16, 2 * side)}
    return {name: {"batch": batch, "rows": cells, "columns": cells} for name, (batch, cells) in sizes.items()}
