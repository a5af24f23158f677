"""Scores by an open_clip checkpoint: similarity of picture and captions, or a small head on the picture's embedding.

A head (NSFW, aesthetics) is an ONNX file from the normalised embedding, float32 (1, D), to a score. open_clip is not
among the requirements: who configures a checkpoint installs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from assets.curation.filters.base import Picture
from assets.curation.filters.onnx_scorer import open_session
from assets.curation.filters.settings import OpenClipModel
from infra.errors import BackdropError


class OpenClipEncoder:
    """One model on one thread. Nothing is downloaded."""

    def __init__(self, model: OpenClipModel) -> None:
        open_clip = _open_clip()
        import torch

        if not Path(model.checkpoint).is_file():
            raise BackdropError(f"there is no checkpoint at {model.checkpoint}", "set the path of the weights file")
        if model.architecture not in open_clip.list_models():
            raise BackdropError(
                f"open_clip knows no architecture {model.architecture!r}", "see open_clip.list_models()"
            )
        torch.set_num_threads(1)
        clip, _, self._preprocess = open_clip.create_model_and_transforms(
            model.architecture, pretrained=model.checkpoint
        )
        self.clip = clip.eval()

    def encode(self, pixels: np.ndarray) -> Any:
        """The normalised embedding of uint8 (H, W, 3), a tensor (1, D)."""
        import torch
        from PIL import Image

        with torch.inference_mode():
            image = self._preprocess(Image.fromarray(pixels))[None]  # (1, 3, S, S)
            return self.clip.encode_image(image, normalize=True)


class OpenClipScorer:
    """Made with the filter's first picture."""

    def __init__(self, model: OpenClipModel) -> None:
        self._encoder = OpenClipEncoder(model)
        self._tokenise = _open_clip().get_tokenizer(model.architecture)
        self._head = open_session(model.head) if model.head else None

    def score(self, picture: Picture) -> float:
        import torch

        with torch.inference_mode():
            seen = self._encoder.encode(picture.pixels)  # (1, D)
            if self._head is not None:
                name = self._head.get_inputs()[0].name
                return float(self._head.run(None, {name: seen.float().numpy()})[0].ravel()[0])
            said = self._encoder.clip.encode_text(
                self._tokenise(list(picture.captions)), normalize=True
            )  # (captions, D)
            return float((said @ seen.T).max())


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise BackdropError(
            "a model asks for open_clip, which is not installed", "pip install open_clip_torch"
        ) from None
    return open_clip
