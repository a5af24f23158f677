"""Representation alignment (REPA, Yu et al. 2024): early tokens learn to predict a teacher's features of the picture.

The teacher sees the clean picture, the transformer its noisy latent. A small projection between them is trained along
and left behind; neither has a part at inference.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.frozen import beside
from training.models.autoencoder import Autoencoder
from training.models.dit import DiT, DiTConfig, Tap
from training.perceptual import Features
from training.precision import mixed
from training.presets.sections import RepaSection, TreadSection


class Teacher(Protocol):
    """Frozen features of clean latents; anything that a latent determines."""

    width: int

    def __call__(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) → features (B, width, H, W) on a grid of any size."""


class PictureTeacher:
    """The last map of `features` for the pictures that the frozen autoencoder decodes the latents to."""

    def __init__(self, autoencoder: Autoencoder, features: Features) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.features = features
        channels, cells = autoencoder.config.latent_channels, 32 // autoencoder.config.factor
        self.width = int(self(torch.zeros(1, channels, cells, cells)).shape[1])

    def __call__(self, latent: Tensor) -> Tensor:
        with torch.no_grad(), mixed(latent.device):
            pictures = beside(self.autoencoder, latent).decode(latent)  # (B, 3, H·f, W·f)
            return self.features(pictures.float())[-1].float()


class Aligned(nn.Module):
    """A transformer and the projection of its tokens to the teacher's width: what is trained with REPA."""

    def __init__(self, dit: DiT, section: RepaSection, width: int) -> None:
        super().__init__()
        self.dit = dit
        self.block = section.block - 1
        self.project = nn.Sequential(
            nn.Linear(dit.config.width, section.width),
            nn.SiLU(),
            nn.Linear(section.width, section.width),
            nn.SiLU(),
            nn.Linear(section.width, width),
        )

    def forward(self, *given: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """What DiT.forward takes → the velocity (B, C, h, w) and the projected tokens (B, N, width)."""
        tap = Tap(self.block)
        predicted = self.dit(*given, **options, tap=tap)
        assert tap.hidden is not None
        return predicted, self.project(tap.hidden)


class Alignment:
    """The term that REPA adds to a loss, until its last step."""

    def __init__(self, section: RepaSection, teacher: Teacher) -> None:
        self.section, self.teacher = section, teacher

    def term(self, projected: Tensor, latent: Tensor, step: int) -> Tensor:
        """λ (1 - mean cosine) of projected tokens (B, N, width) and the teacher's features of latent (B, C, h, w)."""
        if self.section.until is not None and step >= self.section.until:
            return 0 * projected.sum()  # every rank still sees a gradient for every weight
        features = self.teacher(latent)  # (B, width, H, W)
        target = to_tokens(features, latent.shape[2], latent.shape[3], projected.shape[1])  # (B, N, width)
        return self.section.weight * (1 - F.cosine_similarity(projected.float(), target, dim=2).mean())


def to_tokens(features: Tensor, height: int, width: int, tokens: int) -> Tensor:
    """A map (B, F, H, W), averaged over the patches of a latent (height, width) → (B, N, F) in the tokens' order."""
    patch = round((height * width / tokens) ** 0.5)
    return F.adaptive_avg_pool2d(features, (height // patch, width // patch)).flatten(2).transpose(1, 2)


def check_alignment(section: RepaSection, config: DiTConfig, tread: TreadSection | None) -> None:
    """Raises ValueError when the block to align is not there, or sees only a part of the tokens."""
    if section.block > config.depth:
        raise ValueError(f"repa.block is {section.block}, but the model has {config.depth} blocks")
    if tread is not None and tread.start < section.block <= tread.stop:
        raise ValueError(
            f"repa.block {section.block} lies among the blocks {tread.start + 1} to {tread.stop} that tread's tokens "
            f"skip: align one outside"
        )
