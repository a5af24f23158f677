"""Captions → token embeddings, from any Hugging Face text encoder; the default is the embedded all-MiniLM-L6-v2."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.errors import BackdropError
from infra.files import sha256_bytes
from training.precision import mixed
from training.text_source import WHEEL, embedded_folder, identity

log = logging.getLogger(__name__)

# transformers imports these wherever it finds them, and takes twice as long for it.
UNUSED = [
    "IPython",
    "PIL",
    "cv2",
    "librosa",
    "matplotlib",
    "onnx",
    "pandas",
    "pytest",
    "scipy",
    "sklearn",
    "soundfile",
    "tensorflow",
    "torchvision",
]


class TextEncoder:
    """A frozen encoder. `sha256` identifies its weights; `width` is the embedding's last axis."""

    def __init__(self, name: str | None = None, length: int = 32, device: torch.device | None = None) -> None:
        """Load `name` (Hugging Face id or local path; None: the embedded wheel) onto a device, the CPU unless named.

        Captions are cut to `length` tokens, which the log says once. Raises BackdropError when it is missing, damaged
        or not a text encoder, and when its context is shorter than `length`.
        """
        from training._compat.hidden import hidden_from

        folder = embedded_folder() if name is None else Path(name).expanduser()
        local = folder if name is None or folder.exists() else None
        self.length = length
        try:
            with hidden_from("transformers", *UNUSED):
                tokenizer, model = _classes(name)
                source = str(local if local is not None else name)
                self.tokenizer = tokenizer.from_pretrained(source, local_files_only=local is not None)
                self.model = model.from_pretrained(source, local_files_only=local is not None)
        except (OSError, ValueError, KeyError) as error:
            raise BackdropError(
                f"The text encoder {name or WHEEL!r} does not load: {error}",
                "Set BACKDROP_TEXT_ENCODER to a Hugging Face id or a folder with config.json, tokenizer and weights,"
                " or unset it for the embedded one.",
            ) from None
        self.model = getattr(self.model, "encoder", self.model) if _is_pair(self.model) else self.model
        self.model.eval().requires_grad_(False).to(device or torch.device("cpu"))
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context is not None and length > context:
            raise BackdropError(
                f"text_length is {length}, and the text encoder {name or WHEEL!r} reads at most {context} tokens.",
                f"Set latents.text_length and export.text_length to at most {context}.",
            )
        self._said_cut = False
        self.width = int(self.model.config.hidden_size)
        self.sha256 = identity(name) if local is not None else sha256_bytes(_weights_bytes(self.model))

    def embed(self, captions: list[str], batch_size: int = 128) -> tuple[np.ndarray, np.ndarray]:
        """Token embeddings (N, L, D) float16, zero beyond each caption's length, and lengths (N,) uint8.

        Equal captions are encoded once; batches hold captions of like length.
        """
        unique = sorted(set(captions))
        tokens = self.tokenizer(unique, truncation=True, max_length=self.length)["input_ids"] if unique else []
        order = sorted(range(len(unique)), key=lambda index: len(tokens[index]))
        text = np.zeros((len(unique), self.length, self.width), np.float16)
        lengths = np.array([len(ids) for ids in tokens], np.uint8)
        self._say_cut(int((lengths == self.length).sum()), len(unique))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            longest = int(lengths[rows].max())
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            valid = torch.arange(longest) < torch.from_numpy(lengths[rows].astype(np.int64))[:, None]  # (B, longest)
            ids[valid] = torch.tensor([token for row in rows for token in tokens[row]])
            device = next(self.model.parameters()).device
            with torch.inference_mode(), mixed(device):
                read = self.model(input_ids=ids.to(device), attention_mask=valid.long().to(device))
            states = read.last_hidden_state.float().cpu()  # (B, longest, D)
            text[rows, :longest] = (states * valid[..., None]).numpy()
        place = {caption: index for index, caption in enumerate(unique)}
        rows = [place[caption] for caption in captions]
        return text[rows], lengths[rows]

    def _say_cut(self, full: int, captions: int) -> None:
        if full and not self._said_cut:
            self._said_cut = True
            log.warning(
                "%d of %d captions fill all of text_length, %d tokens: what goes beyond is not read",
                *(full, captions, self.length),
            )


def _classes(name: str | None) -> tuple[Any, Any]:
    """Tokenizer and model; for the embedded encoder its own classes, as the automatic ones import far more."""
    if name is None:
        from transformers.models.bert.modeling_bert import BertModel
        from transformers.models.bert.tokenization_bert_fast import BertTokenizerFast

        return BertTokenizerFast, BertModel
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer, AutoModel


def _is_pair(model: torch.nn.Module) -> bool:
    """Whether this is an encoder-decoder (T5), of which only the encoder is wanted."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _weights_bytes(model: torch.nn.Module) -> bytes:
    digest = b""
    for name, value in sorted(model.state_dict().items()):
        digest += sha256_bytes(name.encode() + value.float().cpu().numpy().tobytes()).encode()
    return digest
