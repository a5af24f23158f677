"""What the autoencoder learns by: pixels, edges, the bottleneck, and optionally features and a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from training.adversarial import Adversary, adversarial_terms
from training.draws import Draws
from training.feed import Batch
from training.models.autoencoder import Autoencoder
from training.perceptual import Features, perceptual_distance
from training.precision import mixed
from training.presets.sections import AutoencoderSection

if TYPE_CHECKING:
    from training.composer_model import Loss


def reconstruction_loss(section: AutoencoderSection, features: Features | None = None) -> Loss:
    """Loss of an `Autoencoder`, or of an `Adversary` around one, on batches {"image": uint8 (B, 3, H, W)}."""
    adversarial = section.adversarial

    def loss(model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        autoencoder = model.autoencoder if isinstance(model, Adversary) else model
        assert isinstance(autoencoder, Autoencoder)
        images = crop(batch["image"], section.crop, draws).float() / 127.5 - 1  # (B, 3, H, W)
        with mixed(images.device):
            decoded, terms = reconstruct(autoencoder, images, draws.normal, section.kl_weight)
            terms |= pixel_terms(decoded, images)
            terms["loss"] = terms["l1"] + section.gradient_weight * terms["edges"] + terms["loss"]
            if features is not None and section.perceptual is not None:
                terms["perceptual"] = perceptual_distance(features, decoded, images).mean()
                terms["loss"] = terms["loss"] + section.perceptual.weight * terms["perceptual"]
            if isinstance(model, Adversary) and adversarial is not None:
                terms |= adversarial_terms(model, images, decoded, terms["loss"], adversarial, draws.step)
        return terms

    return loss


def reconstruct(
    model: Autoencoder, images: Tensor, normal: Callable[..., Tensor], kl_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures (B, 3, H, W) through the bottleneck → (B, 3, H, W) and the bottleneck's terms; "loss" is their sum.

    The latents are raw here: normalisation follows training. `normal(stream, *shape)` draws the posterior's noise.
    """
    mean, log_variance = model.moments(images)
    mean = mean.float()  # (B, C, h, w)
    if log_variance is None:
        assert model.codebook is not None
        latent, codes = model.codebook.quantise(mean)
        return model.unpack(latent).float(), {"loss": codes, "codes": codes}
    log_variance = log_variance.float()
    latent = mean + (0.5 * log_variance).exp() * normal("posterior", *mean.shape[1:])
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return model.unpack(latent).float(), {"loss": kl_weight * kl, "kl": kl}


def pixel_terms(decoded: Tensor, images: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
    """L1 of the pixels, and of their differences, which keeps edges sharp; both pictures (B, 3, H, W).

    `weight` (B, 1, H, W), of mean one in each picture, says which pixels matter more.
    """
    error = decoded - images
    if weight is not None:
        error = error * weight
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return {"l1": error.abs().mean(), "edges": edges}


def crop(images: Tensor, side: int | None, draws: Draws) -> Tensor:
    """A drawn square of each picture (B, 3, H, W) → (B, 3, side, side); None: the whole pictures."""
    if side is None:
        return images
    height, width = images.shape[2:]
    tops, lefts = draws.integers("crop", height - side + 1), draws.integers("crop/left", width - side + 1)
    places = zip(images, tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack([image[:, top : top + side, left : left + side] for image, top, left in places])
