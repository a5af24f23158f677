"""What an engine is: the parts that completion needs, behind compiled graphs instead of PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from training.editing import Parts, null_text

#: The graphs of an engine and the file of its bundle that holds each. "text" may be missing: then PyTorch embeds.
GRAPHS = {"trunk": "trunk.onnx", "encoder": "encoder.onnx", "decoder": "decoder.onnx", "text": "text.onnx"}
REQUIRED = frozenset({"trunk", "encoder", "decoder"})

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
    """An `Engine` over its graphs; where they run is the graphs' business.

    Captions are embedded by `embedder`, once per caption and not once per step. With `masked_decoder` the decoder also
    takes the picture and the mask. `fallback` says why this is not the backend that was asked for.
    """

    def __init__(
        self,
        backend: str,
        graphs: Mapping[str, Graph],
        embedder: Embedder,
        image_size: int,
        factor: int,
        masked_decoder: bool = False,
        fallback: str | None = None,
    ) -> None:
        missing = sorted(REQUIRED - set(graphs))
        if missing:
            raise ValueError(f"an engine needs the graphs {sorted(REQUIRED)}; {missing} are missing")
        self.backend = backend
        self.image_size = image_size
        self.factor = factor
        self.fallback = fallback
        self._graphs = dict(graphs)
        self._embedder = embedder
        self._masked = masked_decoder

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images float32 (B, 3, H, W) in [-1, 1] → latents float32 (B, C, h, w) of unit variance."""
        return self._graphs["encoder"]({"images": _float(images)})

    def decode(
        self, latent: np.ndarray, picture: np.ndarray | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Latents float32 (B, C, h, w) → images float32 (B, 3, H, W) in about [-1, 1].

        A mask-conditioned decoder reads what is kept of `picture` (B, 3, H, W), where `mask` (B, 1, H, W) is 0;
        without them everything counts as missing.
        """
        feeds = {"latents": _float(latent)}
        if self._masked:
            batch, _, height, width = latent.shape
            size = (self.factor * height, self.factor * width)
            feeds["mask"] = np.ones((batch, 1, *size), np.float32) if mask is None else _float(mask)
            feeds["original"] = np.zeros((batch, 3, *size), np.float32) if picture is None else _float(picture)
        return self._graphs["decoder"](feeds)

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

        No `negative` is one of length 0; a given one has zeros beyond its length.
        Raises ValueError without `step` and `guidance`: the exported graph is the student, which takes both.
        """
        if step is None or guidance is None:
            raise ValueError("an engine holds the student: give it step and guidance, or use TorchParts for a teacher")
        if negative is None or negative_length is None:
            negative, negative_length = null_text(text, text_length)
        # Words beyond every caption's length change nothing, and every block reads them. Two at least: the exporter
        # takes a size of one for a constant.
        text = text[:, : max(2, int(text_length.max(initial=0)))]
        negative = negative[:, : max(2, int(negative_length.max(initial=0)))]
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
