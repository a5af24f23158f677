"""Open an engine by the id of its bundle: signature, catalog and hashes are checked before anything is loaded."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.engines import onnxruntime, tensorrt
from deploy.engines.captions import GraphEmbedder, Remembering, TorchEmbedder
from deploy.engines.model import OnnxModel
from deploy.engines.protocol import GRAPHS, Embedder, Graph, GraphEngine
from deploy.manifest import ENGINE, Trust, check_schema, open_verified
from infra.bundles import Bundle
from infra.errors import BackdropError, nearest
from infra.object_store import ObjectStore

log = logging.getLogger(__name__)

BACKENDS = ("auto", onnxruntime.BACKEND, tensorrt.BACKEND)
TOKENIZER = "tokenizer.json"


def open_engine(
    store: ObjectStore,
    bundle_id: str,
    trust: Trust,
    backend: str = "auto",
    threads: int = 0,
    text_encoder: str | None = None,
    fallbacks: Counter[str] | None = None,
) -> GraphEngine:
    """The engine in bundle `bundle_id`.

    `backend` "auto" takes TensorRT where it can run and ONNX Runtime otherwise; which of the two it became is logged
    and stands in `.backend`. Plans that must not be loaded, cannot be built or do not start are refused: the engine
    then runs on ONNX Runtime, the log says so as an error, `.fallback` why, and `fallbacks` (engine_fallback_total)
    counts it.
    `text_encoder` embeds the captions of an engine without a text graph (a Hugging Face id or a path; None: embedded).

    Raises BackdropError: an unknown backend, a bundle that is no engine, not signed by a trusted key, unknown to the
    catalog, changed or of another release's form, TensorRT by name where it is not installed.
    """
    bundle = open_verified(store, bundle_id, ENGINE, trust)
    check_schema(bundle)
    chosen = choose_backend(backend)
    fallback = None
    with private_folder() as folder:
        models = models_of(bundle, folder)
        if chosen == tensorrt.BACKEND:
            try:
                graphs = _on_tensorrt(store, models, bundle.meta, trust)
            except Exception as error:  # torch, CUDA and TensorRT each fail in their own way
                chosen, fallback = onnxruntime.BACKEND, _why(error)
                trace = None if isinstance(error, BackdropError) else error
                log.error("engine %s falls back to ONNX Runtime: %s", bundle_id[:12], error, exc_info=trace)
                if fallbacks is not None:
                    fallbacks["plan"] += 1
        if chosen == onnxruntime.BACKEND:
            graphs = on_onnxruntime(models, threads)
    log.info("engine %s runs on %s", bundle_id[:12], chosen)
    meta = bundle.meta
    return GraphEngine(
        chosen,
        graphs,
        Remembering(_embedder(bundle, graphs, text_encoder)),
        int(meta["image_size"]),
        int(meta["factor"]),
        masked_decoder=bool(meta.get("masked_decoder")),
        fallback=fallback,
    )


def choose_backend(wanted: str) -> str:
    """ "onnxruntime" or "tensorrt" for what the settings ask; says in the log why "auto" is not TensorRT."""
    if wanted not in BACKENDS:
        raise BackdropError(
            f"There is no engine backend {wanted!r}.{nearest(wanted, BACKENDS)}",
            f"Backends are: {', '.join(BACKENDS)}.",
        )
    if wanted == onnxruntime.BACKEND:
        return wanted
    obstacle = tensorrt.available()
    if obstacle is None:
        return tensorrt.BACKEND
    if wanted == tensorrt.BACKEND:
        raise BackdropError(f"TensorRT cannot run here: {obstacle}.", "Install it, or use the backend onnxruntime.")
    log.info("no TensorRT here (%s): ONNX Runtime it is", obstacle)
    return onnxruntime.BACKEND


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user may enter: a file cannot be changed between its check and its use."""
    with tempfile.TemporaryDirectory(prefix="backdrop-engine-") as name:
        yield Path(name)


def models_of(bundle: Bundle, folder: Path) -> dict[str, OnnxModel]:
    """Graph → its verified model."""
    facts = bundle.meta["graphs"]
    return {graph: OnnxModel.of(bundle, GRAPHS[graph], folder, str(facts[graph]["format"])) for graph in sorted(facts)}


def on_onnxruntime(models: Mapping[str, OnnxModel], threads: int) -> dict[str, Graph]:
    """Graph → its session."""
    return {graph: onnxruntime.OrtGraph(model, threads) for graph, model in models.items()}


def _on_tensorrt(
    store: ObjectStore, models: Mapping[str, OnnxModel], engine: Mapping[str, Any], trust: Trust
) -> dict[str, Graph]:
    """Graph → its plan: the line's, this machine's own, or built here and now, and kept."""
    from deploy.engines.own import keep_own, read_own
    from deploy.engines.plans import build_plans, plan_inputs, read_plans
    from deploy.engines.tensorrt.runtime import TrtGraph

    inputs, names = plan_inputs(engine, tensorrt.environment()), sorted(models)
    plans = read_plans(store, inputs, trust, names)
    if plans is None:
        plans = read_own(inputs, names)
    if plans is None:
        log.warning("no plans for this GPU and this release of TensorRT are in the cache: they are built, for minutes")
        built = build_plans(store, models, engine)
        keep_own(inputs, built)
        plans = {name: one.plan for name, one in built.items()}
    graphs: dict[str, Graph] = {}
    try:
        for name, plan in plans.items():
            graphs[name] = TrtGraph(name, plan)
    except BaseException:
        for graph in graphs.values():  # what falls back needs the memory
            graph.close()
        raise
    return graphs


def _why(error: Exception) -> str:
    """A failure in one line."""
    if isinstance(error, BackdropError):
        return error.what
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def _embedder(bundle: Bundle, graphs: Mapping[str, Graph], text_encoder: str | None) -> Embedder:
    expected = bundle.meta["text_encoder"]
    if "text" not in graphs:
        return TorchEmbedder(text_encoder, expected)
    return GraphEmbedder(graphs["text"], bundle.read(TOKENIZER), int(expected["length"]), int(expected["width"]))
