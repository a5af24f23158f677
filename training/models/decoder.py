"""A second decoder that sees what is kept, so that what it fills in meets it without a seam.

The task is that of the asymmetric VQGAN (Zhu et al., "Designing a better asymmetric VQGAN for Stable Diffusion", 2023;
diffusers' AsymmetricAutoencoderKL): latents cannot carry every pixel, and a sampler's are off besides, but the kept
pixels are known. Here they enter as the error that the first decoder makes on them, which tells the error beside them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from training.models.autoencoder import FOLD, Autoencoder, AutoencoderConfig, Residual, channels_last, conv

REACH = (1, 2, 4, 8)
"""Dilations of the correction's blocks, in cells of FOLD pixels: together they see 60 pixels around."""


class Blending(Protocol):
    """What decodes with knowledge of the kept pixels."""

    def decode(self, latent: Tensor, mask: Tensor, original: Tensor) -> Tensor:
        """Normalised latent (B, C, h, w), mask (B, 1, H, W) with 1 = to generate, original (B, 3, H, W) in [-1, 1]
        of which only kept pixels are read → (B, 3, H, W), about [-1, 1], before compositing.
        """


@dataclass(frozen=True)
class MaskedDecoderConfig(AutoencoderConfig):
    """That of the autoencoder whose latents it decodes."""


class MaskedDecoder(nn.Module):
    """`Blending`: an autoencoder's own decoder, trained on, and a correction that begins at zero."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: MaskedDecoderConfig) -> None:
        super().__init__()
        self.config = config
        first = Autoencoder(AutoencoderConfig(**vars(config)))
        self.up, self.codebook = first.up, first.codebook
        self.register_buffer("mean", first.mean)
        self.register_buffer("std", first.std)
        width, pixels = config.width, FOLD**2
        leave = conv(width, 3 * pixels)
        nn.init.zeros_(leave.weight)
        self.correction = nn.Sequential(
            nn.PixelUnshuffle(FOLD),
            conv(10 * pixels, width),
            *(Dilated(width, reach) for reach in REACH),
            nn.SiLU(),
            leave,
            nn.PixelShuffle(FOLD),
        )
        channels_last(self)

    @classmethod
    def beside(cls, autoencoder: Autoencoder) -> MaskedDecoder:
        """One that decodes exactly as `autoencoder` does, until it is trained."""
        decoder = cls(MaskedDecoderConfig(**vars(autoencoder.config)))
        decoder.up.load_state_dict(autoencoder.up.state_dict())
        decoder.codebook = copy.deepcopy(autoencoder.codebook)
        decoder.mean.copy_(autoencoder.mean)
        decoder.std.copy_(autoencoder.std)
        return decoder

    def decode(self, latent: Tensor, mask: Tensor, original: Tensor) -> Tensor:
        """See `Blending`."""
        raw = latent * self.std + self.mean  # (B, C, h, w)
        codes = raw if self.codebook is None else self.codebook(raw)
        first = self.up(codes.contiguous(memory_format=torch.channels_last))  # (B, 3, H, W)
        kept = 1 - mask
        missed = (original - first) * kept  # (B, 3, H, W)
        everywhere = missed.sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)  # (B, 3, 1, 1)
        seen = torch.cat([first, missed, everywhere.expand_as(first), mask], dim=1)  # (B, 10, H, W)
        return first + self.correction(seen.contiguous(memory_format=torch.channels_last))

    forward = decode


class Dilated(Residual):
    """A residual block that looks `reach` cells around."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__(width)
        self.inner.dilation = self.inner.padding = (reach, reach)
