"""What an engine is: the parts that completion needs, behind compiled graphs instead of PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from training.editing import Parts, null_text

#: The graphs of an engine and the file of its bundle that holds each.
GRAPHS = {"trunk": "trunk.onnx", "encoder": "encoder.onnx", "decoder": "decoder.onnx"}

Embedder = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class Graph(Protocol):
    """One compiled graph with one output. Inputs go by name."""

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray: ...

    def close(self) -> None: ...


class Engine(Parts, Protocol):
    """Everything that `training.editing.complete` needs, and what it runs on.

    `backend` is the honest name of what computes: "onnxruntime" or "tensorrt".
    """

    backend: str

    def close(self) -> None:
        """Free sessions, buffers and device memory; the engine is of no use afterwards."""


class GraphEngine:
    """An `Engine` over three graphs; where they run is the graphs' business.

    Captions are embedded by `embed`, which is the PyTorch text encoder: it runs once per caption, not once per step.
    """

    def __init__(
        self,
        backend: str,
        graphs: Mapping[str, Graph],
        embedder: Embedder,
        image_size: int,
        factor: int,
    ) -> None:
        missing = sorted(set(GRAPHS) - set(graphs))
        if missing:
            raise ValueError(f"an engine needs the graphs {sorted(GRAPHS)}; {missing} are missing")
        self.backend = backend
        self.image_size = image_size
        self.factor = factor
        self._graphs = dict(graphs)
        self._embedder = embedder

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images float32 (B, 3, H, W) in [-1, 1] → latents float32 (B, C, h, w) of unit variance."""
        return self._graphs["encoder"]({"images": _float(images)})

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """Latents float32 (B, C, h, w) → images float32 (B, 3, H, W) in about [-1, 1]."""
        return self._graphs["decoder"]({"latents": _float(latent)})

    def velocity(
        self,
        z: np.ndarray,
        t: np.ndarray,
        masked: np.ndarray,
        mask: np.ndarray,
        text: np.ndarray,
        text_length: np.ndarray,
        step: np.ndarray | None = None,
        guidance: np.ndarray | None = None,
        negative: np.ndarray | None = None,
        negative_length: np.ndarray | None = None,
    ) -> np.ndarray:
        """The student's velocity, float32 (B, C, h, w); shapes as in `training.editing.Parts`.

        No `negative` is one of length 0; a given one is as long as `text`, zeros beyond its length.
        Raises ValueError without `step` and `guidance`: the exported graph is the student, which takes both.
        """
        if step is None or guidance is None:
            raise ValueError("an engine holds the student: give it step and guidance, or use TorchParts for a teacher")
        if negative is None or negative_length is None:
            negative, negative_length = null_text(text, text_length)
        return self._graphs["trunk"](
            {
                "z": _float(z),
                "t": _float(t),
                "masked": _float(masked),
                "mask": _float(mask),
                "text": _float(text),
                "text_length": np.ascontiguousarray(text_length, np.int64),
                "step": _float(step),
                "guidance": _float(guidance),
                "negative": _float(negative),
                "negative_length": np.ascontiguousarray(negative_length, np.int64),
            }
        )

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Captions → (text (N, L, D), length (N,)) as the text encoder gives them."""
        return self._embedder(captions)

    def close(self) -> None:
        """Free what the graphs hold."""
        for graph in self._graphs.values():
            graph.close()


def _float(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)
