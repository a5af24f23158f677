"""Embeddings of pictures, for semantic duplicates and drift: by an ONNX file, an open_clip checkpoint or an endpoint.

No weights come with the line: without a model in the settings nothing is embedded. Embeddings can be compared only
where one model made them of equally prepared pictures, so an embedder's id is the hash of its weights and settings.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from assets.curation.filters.base import Picture
from assets.curation.filters.settings import EmbedderSection
from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes, sha256_file

_VERSION = "1"  # of how a picture is prepared
_MOST = 16_000  # dimensions that pgvector's `vector` holds


class Encoder(Protocol):
    """A model that makes numbers of a picture."""

    def encode(self, picture: Picture) -> np.ndarray:
        """The embedding as the model gives it, (D,) or (1, D)."""


@lru_cache(maxsize=1)
def embedder_id(section: EmbedderSection) -> str:
    """What tells this embedder from every other one; "" where none is configured.

    Read once per process. Raises BackdropError for weights that are not there, or not those that were meant.
    """
    if not section.model:
        return ""
    weights = section.onnx or (section.open_clip.checkpoint if section.open_clip else "")
    found = _sha256(weights) if weights else ""
    if section.sha256 is not None and found != section.sha256:
        raise BackdropError(
            f"the embedder's weights {weights} have the SHA-256 {found}, not {section.sha256}",
            "put the right file there, or correct curation.embedder.sha256",
        )
    # By its bytes a file is the same wherever it lies.
    kind = "onnx" if section.onnx else "open_clip" if section.open_clip else "endpoint"
    which = section.open_clip.architecture if section.open_clip else section.endpoint
    settings = [_VERSION, kind, which, found, section.revision, section.mean, section.std]
    return f"{kind}:{sha256_bytes(canonical_json(settings))[:16]}"


def _sha256(path: str) -> str:
    if not Path(path).is_file():
        raise BackdropError(f"there is no embedder at {path}", "set the path of its weights, or leave the embedder out")
    return sha256_file(Path(path))


def choose_embedder(section: EmbedderSection) -> Embedder | None:
    """The embedder that the settings name; None where they name none."""
    return Embedder(section) if section.model else None


class Embedder:
    """One model per process, loaded with its first picture."""

    def __init__(self, section: EmbedderSection) -> None:
        self.id = embedder_id(section)
        self._section = section

    def embed(self, picture: Picture) -> np.ndarray:
        """float32 (D,) of length 1. Raises BackdropError where the model gives something else."""
        vector = np.asarray(self._encoder.encode(picture), dtype=np.float64).squeeze()
        length = float(np.linalg.norm(vector))
        if vector.ndim != 1 or len(vector) > _MOST or not (np.isfinite(length) and length > 0):
            raise BackdropError(
                f"{self._section.model} gave an array of shape {vector.shape} and length {length:g} as an embedding",
                f"an embedder gives (1, D) with D from 2 to {_MOST}, and finite numbers that are not all 0",
            )
        return (vector / length).astype(np.float32)

    @cached_property
    def _encoder(self) -> Encoder:
        if self._section.onnx is not None:
            return _OnnxEncoder(self._section)
        if self._section.open_clip is not None:
            return _ClipEncoder(self._section)
        return _EndpointEncoder(self._section)


class _OnnxEncoder:
    def __init__(self, section: EmbedderSection) -> None:
        from assets.curation.filters.onnx_scorer import inputs_of, open_session

        assert section.onnx is not None
        self._session, self._section = open_session(section.onnx), section
        self._image, self._size, text = inputs_of(self._session, section.onnx)
        if text:
            raise BackdropError(f"{section.onnx} reads captions", "give an encoder of pictures, with one input")

    def encode(self, picture: Picture) -> np.ndarray:
        from assets.curation.filters.scorers import model_input

        given = model_input(squared(picture.pixels), self._size, self._section.mean, self._section.std)
        return np.asarray(self._session.run(None, {self._image: given})[0])


class _ClipEncoder:
    def __init__(self, section: EmbedderSection) -> None:
        from assets.curation.filters.open_clip_scorer import OpenClipEncoder

        assert section.open_clip is not None
        self._encoder = OpenClipEncoder(section.open_clip)

    def encode(self, picture: Picture) -> np.ndarray:
        return np.asarray(self._encoder.encode(squared(picture.pixels)).float().numpy())


class _EndpointEncoder:
    def __init__(self, section: EmbedderSection) -> None:
        from assets.curation.filters.endpoint_scorer import Endpoint

        self._endpoint = Endpoint(section)

    def encode(self, picture: Picture) -> np.ndarray:
        return self._endpoint.ask(picture, _embedding, "an embedding", '{"embedding": [numbers]}')


def _embedding(answer: Any) -> list[Any]:
    return list(answer["embedding"])


def squared(pixels: np.ndarray) -> np.ndarray:
    """uint8 (S, S, 3) of the whole picture, its aspect ratio given up.

    CLIP's own preparation cuts the centre out; then two pictures that differ beside it would be one.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    return pixels if height == width else cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
