"""The parts of an engine as PyTorch modules: what training draws samples with and evaluation compares engines to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from training.models.autoencoder import Autoencoder
from training.models.decoder import MaskedDecoder
from training.models.dit import DiT
from training.precision import autocast

Embed = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class TorchParts:
    """`training.editing.Parts` over an autoencoder, a transformer and any caption embedder."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        transformer: DiT,
        embed: Embed,
        image_size: int,
        dtype: torch.dtype = torch.float32,
        masked_decoder: MaskedDecoder | None = None,
    ) -> None:
        self.device = next(transformer.parameters()).device
        self.autoencoder = autoencoder.eval().to(self.device)
        self.masked_decoder = masked_decoder.eval().to(self.device) if masked_decoder is not None else None
        self.transformer = transformer
        self.embed = embed
        self.image_size = image_size
        self.factor = autoencoder.config.factor
        self.dtype = dtype

    def encode(self, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), autocast(self.dtype):
            return self.autoencoder.encode(self._tensor(images)).float().cpu().numpy()

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
        tensors = [self._tensor(part) for part in (z, t, masked, mask, text)]
        lengths = self._tensor(text_length.astype(np.int64))
        extra = [self._tensor(part) for part in (step, guidance) if part is not None]
        if negative is not None and negative_length is not None and negative_length.any():
            extra += [self._tensor(negative), self._tensor(negative_length.astype(np.int64))]
        with torch.inference_mode(), autocast(self.dtype):
            return self.transformer(*tensors, lengths, *extra).float().cpu().numpy()

    def decode(
        self, latent: np.ndarray, picture: np.ndarray | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray:
        with torch.inference_mode(), autocast(self.dtype):
            if self.masked_decoder is not None and picture is not None and mask is not None:
                made = self.masked_decoder.decode(*(self._tensor(part) for part in (latent, mask, picture)))
            else:
                made = self.autoencoder.decode(self._tensor(latent))
            return made.float().cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)
