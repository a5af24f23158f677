"""A small KL autoencoder (Rombach et al. 2022): pictures ↔ latents of 1/8 of their side.

Made for a CPU: the picture is folded to a quarter of its side before the first convolution (space to depth) and
unfolded after the last but one, so that no wide layer runs at full resolution. Residual branches end in zeros, which
takes the place of normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOLD = 4  # pixels folded into channels before the first convolution


@dataclass(frozen=True)
class AutoencoderConfig:
    factor: int = 8
    latent_channels: int = 8
    width: int = 64
    depth: int = 2

    def __post_init__(self) -> None:
        if self.factor not in (4, 8, 16, 32):
            raise ValueError(f"factor {self.factor} must be 4, 8, 16 or 32")


class Autoencoder(nn.Module):
    """`encode` gives normalised latents (unit deviation over the training data), `decode` takes them."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        width, deep, depth = config.width, 2 * config.width, config.depth
        halvings = (config.factor // FOLD).bit_length() - 1
        down: list[nn.Module] = [nn.PixelUnshuffle(FOLD), conv(3 * FOLD**2, width)]
        down += [Residual(width) for _ in range(depth)]
        up: list[nn.Module] = [conv(config.latent_channels, deep if halvings else width)]
        for index in range(halvings):
            down += [conv(width if index == 0 else deep, deep, stride=2), Residual(deep)]
            last = index == halvings - 1
            up += [Residual(deep), conv(deep, 4 * (width if last else deep), kernel=1), nn.PixelShuffle(2)]
        down.append(conv(deep if halvings else width, 2 * config.latent_channels, kernel=1))
        up += [Residual(width) for _ in range(depth)]
        up += [nn.SiLU(), conv(width, 12 * FOLD**2), nn.PixelShuffle(FOLD), nn.SiLU(), conv(12, 3)]
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)
        self.register_buffer("mean", torch.zeros(1, config.latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, config.latent_channels, 1, 1))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [-1, 1] → mean and log variance, each (B, C, H/f, W/f), not normalised."""
        mean, log_variance = self.down(images.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 5.0)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → normalised latent (B, C, H/f, W/f)."""
        return (self.moments(images)[0] - self.mean) / self.std

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent (B, C, h, w) → pictures (B, 3, f·h, f·w), about [-1, 1]."""
        return self.up((latent * self.std + self.mean).contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def normalise(self, latents: Tensor) -> None:
        """Set the normalisation from raw latents (N, C, h, w)."""
        self.mean.copy_(latents.float().mean((0, 2, 3), keepdim=True))
        self.std.copy_(latents.float().std((0, 2, 3), keepdim=True).clamp(min=1e-4))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = conv(width, width), conv(width, width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:  # (B, W, h, w) → the same
        return x + self.outer(F.silu(self.inner(F.silu(x))))


def conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def reconstruction_loss(
    model: Autoencoder, images: Tensor, noise: Tensor, kl_weight: float, gradient_weight: float
) -> dict[str, Tensor]:
    """L1 of the pixels, L1 of their differences (keeps edges sharp) and a small KL towards N(0, 1).

    images (B, 3, H, W) in [-1, 1]; noise (B, C, H/f, W/f). The latents are raw here: normalisation follows training.
    """
    mean, log_variance = model.moments(images)
    mean, log_variance = mean.float(), log_variance.float()
    latent = mean + (0.5 * log_variance).exp() * noise  # (B, C, h, w)
    decoded = model.up(latent.contiguous(memory_format=torch.channels_last)).float()  # (B, 3, H, W)
    error = decoded - images
    pixels = error.abs().mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return {"loss": pixels + gradient_weight * edges + kl_weight * kl, "l1": pixels, "edges": edges, "kl": kl}
