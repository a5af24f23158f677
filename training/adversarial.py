"""A patch discriminator beside the autoencoder (VQGAN: Esser et al., "Taming transformers", 2021).

Both learn in one backward pass of one loss: the generator's term sees the discriminator's weights detached, the
discriminator's term sees detached pictures. So one optimiser, whose steps are per parameter, moves both, and both are
saved, resumed and averaged like any other weights.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from training.models.autoencoder import Autoencoder
from training.presets.sections import AdversarialSection

LARGEST_WEIGHT = 1e4


class Discriminator(nn.Sequential):
    """(B, 3, H, W) in [-1, 1] → logits (B, 1, h, w), one per patch (PatchGAN: Isola et al. 2017); higher is real.

    Group instead of batch normalisation: a picture's logits depend on no other picture of its batch.
    """

    def __init__(self, width: int, depth: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index in range(1, depth):
            narrow, wide = width * min(2 ** (index - 1), 8), width * min(2**index, 8)
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False)]
            layers += [nn.GroupNorm(min(8, wide), wide), nn.LeakyReLU(0.2)]
        last = width * min(2 ** (depth - 1), 8)
        super().__init__(*layers, nn.Conv2d(last, 1, 3, padding=1))


class Adversary(nn.Module):
    """An autoencoder and the discriminator that it learns against; thrown away after training."""

    def __init__(self, autoencoder: Autoencoder, section: AdversarialSection) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.discriminator = Discriminator(section.width, section.depth)


def adversarial_terms(
    model: Adversary,
    images: Tensor,
    decoded: Tensor,
    reconstruction: Tensor,
    section: AdversarialSection,
    step: int,
) -> dict[str, Tensor]:
    """`reconstruction` plus both players' terms as "loss", and each by its name; before `section.start` they are zero.

    images, decoded (B, 3, H, W).
    """
    discriminator = model.discriminator
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    generator = -functional_call(discriminator, frozen, (decoded,)).float().mean()
    real, fake = discriminator(images).float(), discriminator(decoded.detach()).float()
    hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    weight = adaptive_weight(reconstruction, generator, model.autoencoder.last_weight)
    on = float(step >= section.start)
    return {
        "loss": reconstruction + on * (section.weight * weight * generator + hinge),
        "generator": generator,
        "discriminator": hinge,
        "adaptive_weight": weight,
    }


def adaptive_weight(reconstruction: Tensor, generator: Tensor, last: Tensor) -> Tensor:
    """λ = ‖∇ reconstruction‖ / ‖∇ generator‖ at the decoder's last layer (equation 7); a scalar without gradient."""
    losses = (reconstruction, generator)
    gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0].contiguous() for loss in losses]
    if dist.is_available() and dist.is_initialized():
        for gradient in gradients:  # sums: their ratio is that of the global batch's means
            dist.all_reduce(gradient)
    ours, theirs = (gradient.float().norm() for gradient in gradients)
    return (ours / (theirs + 1e-6)).clamp(max=LARGEST_WEIGHT)
