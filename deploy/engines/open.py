"""Open an engine by the id of its bundle: every file is checked against its hash before anything is loaded."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from deploy.engines import onnxruntime, tensorrt
from deploy.engines.protocol import GRAPHS, Graph, GraphEngine
from infra.bundles import Bundle, open_bundle
from infra.errors import BackdropError, nearest
from infra.object_store import ObjectStore

if TYPE_CHECKING:
    from training.models.text_encoder import TextEncoder

log = logging.getLogger(__name__)

#: Embedded captions kept in memory, about 25 kB each.
REMEMBERED = 1024
BACKENDS = ("auto", onnxruntime.BACKEND, tensorrt.BACKEND)


def open_engine(
    store: ObjectStore,
    bundle_id: str,
    backend: str = "auto",
    threads: int = 0,
    text_encoder: str | None = None,
) -> GraphEngine:
    """The engine in bundle `bundle_id`.

    `backend` "auto" takes TensorRT where it can run and ONNX Runtime otherwise; which of the two it became is logged
    and stands in `.backend`. `text_encoder` embeds the captions (a Hugging Face id or a path; None: the embedded one).

    Raises BackdropError: an unknown backend, a bundle that is no engine, a changed file, TensorRT where it cannot run.
    """
    bundle = open_bundle(store, bundle_id)
    if bundle.kind != "engine":
        raise BackdropError(
            f"Bundle {bundle_id[:12]}… holds a {bundle.kind}, not an engine.",
            "Give the id that tensorrt_engine reported.",
        )
    chosen = choose_backend(backend)
    models = {graph: bundle.read(name) for graph, name in GRAPHS.items()}
    graphs = {
        graph: load_graph(chosen, graph, model, bundle.meta["profiles"][graph], threads)
        for graph, model in models.items()
    }
    log.info("engine %s runs on %s", bundle_id[:12], chosen)
    embedder = CaptionEmbedder(text_encoder, bundle)
    return GraphEngine(chosen, graphs, embedder, int(bundle.meta["image_size"]), int(bundle.meta["factor"]))


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


def load_graph(
    backend: str, graph: str, model: bytes, profile: Mapping[str, Mapping[str, int]], threads: int = 0
) -> Graph:
    """One ONNX model on one backend. `profile` (see `tensorrt.Profile`) matters to TensorRT only, `threads` to ONNX
    Runtime only."""
    if backend == onnxruntime.BACKEND:
        return onnxruntime.OrtGraph(GRAPHS[graph], model, threads)
    return tensorrt.TrtGraph(tensorrt.build_plan(GRAPHS[graph], model, tensorrt.Profile(**profile)))


class CaptionEmbedder:
    """The PyTorch text encoder that the engine's student was trained with, loaded at the first caption.

    Raises BackdropError when the encoder at hand is not the one that the manifest names.
    """

    def __init__(self, name: str | None, bundle: Bundle) -> None:
        self._name = name
        self._expected = bundle.meta["text_encoder"]
        self._known: OrderedDict[str, tuple[np.ndarray, int]] = OrderedDict()

    @cached_property
    def _encoder(self) -> TextEncoder:
        from training.models.text_encoder import TextEncoder

        encoder = TextEncoder(self._name, length=int(self._expected["length"]))
        if encoder.sha256 != self._expected["sha256"]:
            raise BackdropError(
                f"This engine was made with the text encoder {self._expected['sha256'][:12]}…, "
                f"the one at hand ({self._name or 'embedded'}) is {encoder.sha256[:12]}….",
                "Set BACKDROP_TEXT_ENCODER to the one that it was trained with.",
            )
        return encoder

    def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(text (N, L, E) float16, length (N,)); the captions of late are remembered, for they come again."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        found = {caption: self._known[caption] for caption in captions if caption in self._known}
        if missing:
            text, length = self._encoder.embed(missing)
            found |= {caption: (text[row], int(length[row])) for row, caption in enumerate(missing)}
        for caption in found:
            self._known[caption] = found[caption]
            self._known.move_to_end(caption)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        rows = [found[caption] for caption in captions]
        return np.stack([text for text, _ in rows]), np.array([length for _, length in rows], np.uint8)
