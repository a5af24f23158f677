"""Captions → embeddings: by the engine's own text graph, or by the PyTorch encoder where an engine has none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.engines.protocol import Embedder, Graph
from infra.errors import BackdropError

if TYPE_CHECKING:
    from training.models.text_encoder import TextEncoder

REMEMBERED = 8_000_000
"""Bytes of embedded captions kept in memory: some 1,500 of ten words by the embedded encoder, 500 by CLIP's."""

Embedded = tuple[np.ndarray, np.ndarray]


class GraphEmbedder:
    """The text encoder as a graph, with its tokenizer (a `tokenizer.json`): needs neither PyTorch nor transformers."""

    def __init__(self, graph: Graph, tokenizer: bytes, length: int, width: int) -> None:
        from tokenizers import Tokenizer

        self._graph, self._length, self._width = graph, length, width
        self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)

    def __call__(self, captions: Sequence[str]) -> Embedded:
        """(text (N, L, E) float16, zero beyond each caption's length, length (N,) uint8)."""
        ids, valid = tokens_of([encoded.ids for encoded in self._tokenizer.encode_batch(list(captions))])
        text = np.zeros((len(captions), self._length, self._width), np.float16)
        text[:, : ids.shape[1]] = self._graph({"ids": ids, "valid": valid})
        return text, valid.sum(1).astype(np.uint8)


def tokens_of(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (N, T) and which of them count (N, T), both int64, T the longest row."""
    length = np.array([len(row) for row in rows])
    valid = np.arange(length.max(initial=1)) < length[:, None]
    ids = np.zeros(valid.shape, np.int64)
    ids[valid] = [token for row in rows for token in row]
    return ids, valid.astype(np.int64)


class TorchEmbedder:
    """The PyTorch text encoder that the engine's student was trained with, loaded at the first caption.

    Raises BackdropError when the encoder at hand is not the one that the manifest names.
    """

    def __init__(self, name: str | None, expected: dict[str, Any]) -> None:
        self._name, self._expected = name, expected
        self._encoder: TextEncoder | None = None

    def __call__(self, captions: Sequence[str]) -> Embedded:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder.embed(list(captions))

    def _load(self) -> TextEncoder:
        from training.models.text_encoder import TextEncoder

        encoder = TextEncoder(self._name, length=int(self._expected["length"]))
        if encoder.sha256 != self._expected["sha256"]:
            raise BackdropError(
                f"This engine was made with the text encoder {self._expected['sha256'][:12]}…, "
                f"the one at hand ({self._name or 'embedded'}) is {encoder.sha256[:12]}….",
                "Set BACKDROP_TEXT_ENCODER to the one that it was trained with.",
            )
        return encoder


class Remembering:
    """An embedder that keeps the captions of late, for they come again. Of each only the tokens that it has."""

    def __init__(self, embedder: Embedder, most: int = REMEMBERED) -> None:
        self._embedder, self._most = embedder, most
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()  # (tokens, E) each
        self._bytes = self._length = 0

    def __call__(self, captions: Sequence[str]) -> Embedded:
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        found = {caption: self._known[caption] for caption in captions if caption in self._known}
        if missing:
            text, lengths = self._embedder(missing)
            self._length = text.shape[1]
            # Copies: a view would keep the whole batch.
            found |= {caption: text[row, : lengths[row]].copy() for row, caption in enumerate(missing)}
        for caption in found:
            if caption not in self._known:
                self._known[caption] = found[caption]
                self._bytes += found[caption].nbytes
            self._known.move_to_end(caption)
        while self._bytes > self._most and self._known:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
        rows = [found[caption] for caption in captions]
        text = np.zeros((len(rows), self._length, rows[0].shape[1]), rows[0].dtype)
        for row, tokens in enumerate(rows):
            text[row, : len(tokens)] = tokens
        return text, np.array([len(tokens) for tokens in rows], np.uint8)
