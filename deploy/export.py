"""The verb `export`: student, autoencoder and text encoder become graphs, held against PyTorch, timed, an engine.

models ─► ONNX graphs ─► per-node parity ─► engine ─► parity on unseen shapes ─► latency ─► bundle with its manifest
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deploy.building import Beside, BuiltGraph, build_graph, building_beside, largest_errors, recipe_of
from deploy.engines import onnxruntime, tensorrt
from deploy.engines.captions import GraphEmbedder
from deploy.engines.model import OnnxModel
from deploy.engines.open import TOKENIZER, choose_backend, on_onnxruntime
from deploy.engines.plans import build_plans, plan_inputs, refit_plans, write_plans
from deploy.engines.protocol import GRAPHS, Embedder, Graph, GraphEngine
from deploy.engines.tensorrt.profiles import bucket_profiles
from deploy.graphs import DecoderGraph, EncoderGraph, MaskedDecoderGraph, TextGraph, trunk_export
from deploy.latency import measure
from deploy.manifest import SCHEMA
from deploy.nodes import FAR, node_check, summary
from deploy.parity import check_parity, parity_check, table, worst
from deploy.precision import NODE_TOLERANCE, TOLERANCE, check_islands
from deploy.probes import Probe, Probes
from deploy.samples import Pictures
from deploy.specs import ExportSpec
from infra.bundles import write_bundle
from infra.errors import BackdropError
from infra.files import sha256_bytes, sha256_file
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.sources import source_hash
from training.editing import to_float
from training.models.autoencoder import Autoencoder
from training.models.decoder import MaskedDecoder
from training.models.dit import DiT
from training.models.io import load_model
from training.models.text_encoder import TextEncoder
from training.samples import picture_size

PROBES = 4


def run(spec: ExportSpec, job: JobContext[ExportSpec]) -> JobResult:
    """Build, check and time the engine. Raises BackdropError for models that do not fit each other."""
    started = time.monotonic()
    section = spec.config
    autoencoder, student = load_model(job.store, spec.autoencoder), load_model(job.store, spec.student)
    masked = load_model(job.store, spec.masked_decoder) if spec.masked_decoder else None
    check_models(autoencoder, student, masked)
    check_islands(section.islands, [model for model in (autoencoder, student, masked) if model is not None])
    progress = partial(job.progress, "export", total=len(GRAPHS) + 2, unit="graphs")
    progress(0)
    samples = Pictures(job.store, spec.probe, spec.image_size, job.folder / "cache").any(PROBES)
    if not samples:
        raise BackdropError(
            f"Dataset version {spec.probe[:12]}… has no picture with a product mask.",
            "Add pictures with masks, or keep the sample catalogue in the mix.",
        )
    images = np.stack([to_float(sample.image).transpose(2, 0, 1) for sample in samples])
    captions = tuple(sample.caption for sample in samples)
    folder = job.folder / "graphs"
    beside = Beside(
        job.store.uri, spec.autoencoder, spec.masked_decoder, spec.text_encoder, section.model_dump_json(),
        images, captions, spec.seed, student.config.patch, folder,
    )  # fmt: skip
    with building_beside(beside) as others:
        text_encoder = TextEncoder(spec.text_encoder, length=section.text_length)
        maker = Probes(images, captions, spec.seed, student.config.patch)
        inside = list(maker.inside(autoencoder, text_encoder, masked is not None))
        built = {"trunk": build_graph("trunk", trunk_export(student), section, inside, folder)}
        progress(1)
        built |= others()
    progress(len(GRAPHS))

    models = {name: one.model for name, one in built.items()}
    tokenizer = _tokenizer(text_encoder)
    if tokenizer is None:
        models.pop("text", None)
    manifest = describe(spec, autoencoder, student, masked, built, text_encoder, with_text="text" in models)
    size = next(iter(_sizes(spec, autoencoder, student).values()))
    golden = partial(maker.one, autoencoder, text_encoder, masked is not None, 1, *size)
    backend, graphs, plans = _engine_graphs(spec, job, models, manifest, golden)
    probes = list(maker.at(autoencoder, text_encoder, masked is not None))
    if backend == tensorrt.BACKEND:
        probes = [maker.one(autoencoder, text_encoder, masked is not None, batch, *size)
                  for size in _sizes(spec, autoencoder, student).values() for batch in {1, section.batch}]  # fmt: skip
    modules = _modules(autoencoder, student, masked, text_encoder)
    rows = check_parity(graphs, modules, probes, largest_errors(section, graphs, section.tolerance, TOLERANCE))
    progress(len(GRAPHS) + 1)
    embedder: Embedder = lambda texts: text_encoder.embed(list(texts))  # noqa: E731
    if "text" in graphs and tokenizer is not None:
        embedder = GraphEmbedder(graphs["text"], tokenizer, text_encoder.length, text_encoder.width)
    engine = GraphEngine(backend, graphs, embedder, spec.image_size, autoencoder.config.factor, masked is not None)
    latency = measure(
        engine,
        np.stack([sample.image for sample in samples]),
        np.stack([sample.product for sample in samples]),
        captions,
        steps=section.steps,
        batch_sizes=section.batch_sizes,
        runs=section.latency_runs,
    )
    engine.close()
    node_rows = [row for one in built.values() for row in one.nodes]
    nodes = summary(node_rows, largest_errors(section, built, section.node_tolerance, NODE_TOLERANCE))
    facts = {
        "backend": backend,
        "parity": table(rows),
        "tolerance": section.tolerance or TOLERANCE[section.precision],  # of all but float32 graphs: see the rows
        "latency_ms": latency,
        "latency_steps": section.steps,
    }
    written = {}
    if plans is not None:
        inputs = plan_inputs(manifest, tensorrt.environment())
        key, bundle = write_plans(job.store, inputs, plans, {**facts, "driver": tensorrt.driver()}, spec.probe)
        written = {key: bundle}
    manifest |= {
        **facts,
        "backend_version": tensorrt.version() if backend == tensorrt.BACKEND else onnxruntime.version(),
        "nodes": nodes,
        "plans": sorted(written),
        "build_seconds": round(time.monotonic() - started, 1),
    }
    files: dict[str, bytes | Path] = {
        name: content for model in models.values() for name, content in model.files.items()
    }
    if "text" in models and tokenizer is not None:
        files[TOKENIZER] = tokenizer
    identity = write_bundle(job.store, f"{job.output}/engine", "engine", files, manifest)
    progress(len(GRAPHS) + 2)
    first = f"batch {section.batch_sizes[0]}"
    return JobResult(
        metadata={
            "backend": backend,
            "precision": section.precision,
            "opset": section.opset,
            "worst_relative_l2": min(worst(rows).relative_l2, FAR),
            "worst_node": f"{nodes['worst'][0]['graph']} {nodes['worst'][0]['node']}",
            "worst_node_error": nodes["worst"][0]["error"],
            f"p50_ms_{first.replace(' ', '_')}": latency[first]["p50"],
            f"p95_ms_{first.replace(' ', '_')}": latency[first]["p95"],
            "megabytes": round(sum(_size(content) for content in files.values()) / 1e6, 2),
            "seconds": round(time.monotonic() - started, 1),
        },
        files={
            "parity": job.put_json("parity", {"outputs": table(rows), "nodes": nodes}),
            "latency": job.put_json("latency", latency),
        },
        data={"engine": identity, "plans": written, "backend": backend, "parity": table(rows), "latency_ms": latency},
        checks=[parity_check(rows), node_check(nodes)],
    )


def _engine_graphs(
    spec: ExportSpec,
    job: JobContext[ExportSpec],
    models: Mapping[str, OnnxModel],
    manifest: Mapping[str, Any],
    golden: Callable[[], Probe],
) -> tuple[str, dict[str, Graph], dict[str, Any] | None]:
    """(backend, its graphs, the plans where it is TensorRT)."""
    backend = choose_backend(spec.config.backend)
    if backend == onnxruntime.BACKEND:
        return backend, on_onnxruntime(models, spec.config.threads), None
    from deploy.engines.tensorrt.runtime import TrtGraph

    section = spec.config
    allowed = largest_errors(section, models, section.tolerance, TOLERANCE)
    plans = None
    if section.tensorrt.refittable:
        given = golden().feeds
        plans = refit_plans(job.store, models, manifest, tensorrt.environment(), spec.trust, given, allowed)
    if plans is None:
        plans = build_plans(job.store, models, manifest)
    return backend, {name: TrtGraph(name, built.plan) for name, built in plans.items()}, plans


def _modules(
    autoencoder: Autoencoder, student: DiT, masked: MaskedDecoder | None, text_encoder: TextEncoder
) -> dict[str, nn.Module]:
    decoder = DecoderGraph(autoencoder) if masked is None else MaskedDecoderGraph(masked)
    return {
        "encoder": EncoderGraph(autoencoder),
        "decoder": decoder,
        "text": TextGraph(text_encoder.model),
        "trunk": student,
    }


def _tokenizer(text_encoder: TextEncoder) -> bytes | None:
    """The encoder's `tokenizer.json`; None for one that exists in Python only."""
    backend = getattr(text_encoder.tokenizer, "backend_tokenizer", None)
    return backend.to_str().encode() if backend is not None else None


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def check_models(autoencoder: object, student: object, masked: object = None) -> None:
    """Raises BackdropError unless these are an autoencoder, a student over the same latents, and a masked decoder."""
    if not isinstance(autoencoder, Autoencoder):
        raise BackdropError("The bundle given as autoencoder holds another model.", "Give what autoencoder reported.")
    if not isinstance(student, DiT) or not student.config.flow_map:
        raise BackdropError("The bundle given as student holds no student.", "Give what distilled_model reported.")
    if masked is not None and not isinstance(masked, MaskedDecoder):
        raise BackdropError("The bundle given as masked_decoder holds none.", "Give what autoencoder reported.")
    ours, theirs = student.config.latent_channels, autoencoder.config.latent_channels
    if ours != theirs:
        raise BackdropError(
            f"The student works on {ours} latent channels, the autoencoder makes {theirs}.",
            "Distil again from a teacher trained on this autoencoder's latents.",
        )


def _sizes(spec: ExportSpec, autoencoder: Autoencoder, student: DiT) -> dict[str, tuple[int, int]]:
    """Bucket → height and width of its pictures; squares alone where the line has no buckets."""
    unit = autoencoder.config.factor * student.config.patch
    return {name: picture_size(name, spec.image_size, unit) for name in spec.buckets or ("1x1",)}


def describe(
    spec: ExportSpec,
    autoencoder: Autoencoder,
    student: DiT,
    masked: MaskedDecoder | None,
    built: Mapping[str, BuiltGraph],
    text_encoder: TextEncoder,
    with_text: bool,
) -> dict[str, Any]:
    """The manifest's facts about how this engine was made; measurements are added by who took them."""
    import onnx

    factor, patch, section = autoencoder.config.factor, student.config.patch, spec.config
    sizes = _sizes(spec, autoencoder, student)
    shipped = {name: one for name, one in built.items() if name != "text" or with_text}
    files = {file: content for one in shipped.values() for file, content in one.model.files.items()}
    return {
        "schema": SCHEMA,
        "catalog": {
            "asset": "tensorrt_engine",
            "data_version": spec.output.rpartition("/")[2],
            "dataset_version": spec.probe,
        },
        "image_size": spec.image_size,
        "factor": factor,
        "patch": patch,
        "latent_channels": student.config.latent_channels,
        "masked_decoder": masked is not None,
        "steps": section.steps,
        "precision": recipe_of(section).as_dict(),
        "opset": section.opset,
        "onnx_sha256": {file: sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content)
                        for file, content in files.items()},
        "graphs": {name: one.facts for name, one in shipped.items()},
        "sources": {"autoencoder": spec.autoencoder, "student": spec.student, "dataset": spec.probe,
                    **({"masked_decoder": spec.masked_decoder} if spec.masked_decoder else {})},
        "text_encoder": {
            "runs_on": "graph" if with_text else "pytorch",
            "sha256": text_encoder.sha256,
            "length": text_encoder.length,
            "width": text_encoder.width,
        },
        "buckets": sizes,
        "profiles": {name: profiles for name, profiles in
                     bucket_profiles(sizes, factor, patch, text_encoder.length, section.batch).items()
                     if name in shipped},
        "tensorrt": section.tensorrt.model_dump(mode="json"),
        "producers": {
            "code": source_hash("deploy.export"),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.version(),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "host": platform.node(),
        },
    }  # fmt: skip
