"""The autoencoder's optional second stage: a decoder that sees mask and original, learned with the encoder frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from training.draws import Draws
from training.feed import Batch
from training.frozen import beside
from training.masks import random_mask
from training.models.autoencoder import Autoencoder
from training.models.decoder import MaskedDecoder
from training.pictures import tensor_grid
from training.precision import mixed
from training.presets.sections import MaskedDecoderSection
from training.reconstruction import pixel_terms
from training.seam import border_band, composite, seam_error

if TYPE_CHECKING:
    from training.composer_model import Loss

BORDER = 4  # pixels on which the loss weighs more


def masked_decoder_loss(section: MaskedDecoderSection, autoencoder: Autoencoder) -> Loss:
    """Loss of a `MaskedDecoder` on batches {"image": uint8 (B, 3, H, W)}; `autoencoder` is frozen.

    A sampler's latents are off by more than a reconstruction's, in colour above all. So the latents drift by a number
    per picture and channel, by little in some pictures and by `section.drift` in others, and the decoder learns how far
    to trust the kept pixels.
    """
    autoencoder.eval().requires_grad_(False)

    def loss(model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        assert isinstance(model, MaskedDecoder)
        images = batch["image"].float() / 127.5 - 1  # (B, 3, H, W)
        mask = drawn_masks(draws, images.shape[2], images.shape[3]).to(images.device)  # (B, 1, H, W)
        with mixed(images.device):
            with torch.no_grad():
                latent = beside(autoencoder, images).encode(images).float()  # (B, C, h, w)
            drift = draws.uniform("drift/size", 1, 1, 1) * draws.normal("drift", latent.shape[1], 1, 1)
            decoded = model(latent + section.drift * drift, mask, images).float()  # (B, 3, H, W)
        weight = mask * (1 + section.border * border_band(mask, BORDER))  # only the hole is ever shown
        terms = pixel_terms(decoded, images, weight / weight.mean((1, 2, 3), keepdim=True))
        return {"loss": terms["l1"] + 0.5 * terms["edges"], **terms}

    return loss


def drawn_masks(draws: Draws, height: int, width: int) -> Tensor:
    """One random hole per sample: float32 (B, 1, H, W)."""
    seeds = draws.integers("mask", 2**24, 2).tolist()  # two words of 24 bits per sample
    masks = [random_mask(np.random.default_rng(seed), height, width) for seed in seeds]
    return torch.from_numpy(np.stack(masks))[:, None]


@dataclass(frozen=True)
class Probe:
    """Pictures (N, 3, H, W), holes (N, 1, H, W) and the drift (N, C, 1, 1) of their latents."""

    images: Tensor
    masks: Tensor
    drift: Tensor

    @classmethod
    def of(cls, images: Tensor, channels: int, drift: float, seed: int) -> Probe:
        draws = Draws(seed, 0, torch.arange(len(images)), len(images))
        masks = drawn_masks(draws, images.shape[2], images.shape[3])
        return cls(images, masks, drift * draws.normal("drift", channels, 1, 1))

    @torch.no_grad()
    def decoded(self, autoencoder: Autoencoder, masked: MaskedDecoder) -> dict[str, Tensor]:
        """Both decoders' pictures from the same latents, before compositing."""
        device = masked.mean.device
        images, masks = self.images.to(device), self.masks.to(device)
        latent = autoencoder.to(device).encode(images) + self.drift.to(device)
        return {"first": autoencoder.decode(latent).cpu(), "second": masked.decode(latent, masks, images).cpu()}

    def seams(self, autoencoder: Autoencoder, masked: MaskedDecoder) -> dict[str, float]:
        """Each decoder's `seam_error`, in levels of 255."""
        found = self.decoded(autoencoder, masked)
        return {name: round(seam_error(decoded, self.images, self.masks), 2) for name, decoded in found.items()}

    def grid(self, autoencoder: Autoencoder, rows: int) -> Callable[[MaskedDecoder], bytes]:
        """draw(masked decoder) → PNG: what is kept, both composites, the picture."""
        few = Probe(self.images[:rows], self.masks[:rows], self.drift[:rows])

        def draw(masked: MaskedDecoder) -> bytes:
            found = few.decoded(autoencoder, masked)
            columns = [few.images * (1 - few.masks)]
            columns += [composite(found[name], few.images, few.masks) for name in ("first", "second")]
            return tensor_grid([*columns, few.images], ["kept", "first decoder", "second", "picture"])

        return draw
