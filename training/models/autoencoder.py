"""A small autoencoder (Rombach et al. 2022): pictures ↔ latents of 1/4 to 1/32 of their side, KL or VQ bottleneck.

Made for a CPU: the picture is folded to a quarter of its side before the first convolution (space to depth) and
unfolded after the last but one, so that no wide layer runs at full resolution. Residual branches end in zeros, which
takes the place of normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.vq import Codebook

FOLD = 4  # pixels folded into channels before the first convolution
FACTORS = (4, 8, 16, 32)


@dataclass(frozen=True)
class AutoencoderConfig:
    factor: int = 8
    latent_channels: int = 8
    width: int = 64
    depth: int = 2
    codes: int = 0
    """Entries of the codebook; 0: a KL bottleneck."""

    def __post_init__(self) -> None:
        if self.factor not in FACTORS:
            raise ValueError(f"factor {self.factor} must be 4, 8, 16 or 32")

    @property
    def halvings(self) -> int:
        """How often the side is halved after folding."""
        return (self.factor // FOLD).bit_length() - 1


class Autoencoder(nn.Module):
    """`encode` gives normalised latents (unit deviation over the training data), `decode` takes them.

    Latents are those before quantisation, which belongs to decoding (Rombach et al. 2022, §3.1): a sampler's latents
    need not lie on codes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.down, self.up = self.networks(config)
        self.codebook = Codebook(config.codes, config.latent_channels) if config.codes else None
        self.register_buffer("mean", torch.zeros(1, config.latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, config.latent_channels, 1, 1))
        channels_last(self)

    def networks(self, config: AutoencoderConfig) -> tuple[nn.Sequential, nn.Sequential]:
        """Pictures (B, 3, H, W) → raw latents or moments (B, C or 2C, H/f, W/f), and raw latents → pictures."""
        width, deep, depth, halvings = config.width, 2 * config.width, config.depth, config.halvings
        down: list[nn.Module] = [nn.PixelUnshuffle(FOLD), conv(3 * FOLD**2, width)]
        down += [Residual(width) for _ in range(depth)]
        up: list[nn.Module] = [conv(config.latent_channels, deep if halvings else width)]
        for index in range(halvings):
            down += [conv(width if index == 0 else deep, deep, stride=2), Residual(deep)]
            last = index == halvings - 1
            up += [Residual(deep), conv(deep, 4 * (width if last else deep), kernel=1), nn.PixelShuffle(2)]
        moments = config.latent_channels if config.codes else 2 * config.latent_channels
        down.append(conv(deep if halvings else width, moments, kernel=1))
        up += [Residual(width) for _ in range(depth)]
        up += [nn.SiLU(), conv(width, 12 * FOLD**2), nn.PixelShuffle(FOLD), nn.SiLU(), conv(12, 3)]
        return nn.Sequential(*down), nn.Sequential(*up)

    @property
    def last_weight(self) -> Tensor:
        """The decoder's last layer: where the adversarial loss is weighed against the reconstruction's."""
        return self.up.get_parameter(f"{len(self.up) - 1}.weight")

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) in [-1, 1] → mean and log variance, each (B, C, H/f, W/f), not normalised.

        With a codebook the mean is the latent before quantisation, and there is no variance.
        """
        raw = self.down(images.contiguous(memory_format=torch.channels_last))
        if self.codebook is not None:
            return raw, None
        mean, log_variance = raw.chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 5.0)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → normalised latent (B, C, H/f, W/f)."""
        return (self.moments(images)[0] - self.mean) / self.std

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent (B, C, h, w) → pictures (B, 3, f·h, f·w), about [-1, 1]."""
        raw = latent * self.std + self.mean
        return self.unpack(raw if self.codebook is None else self.codebook(raw))

    def unpack(self, raw: Tensor) -> Tensor:
        """Raw, with a codebook quantised, latent (B, C, h, w) → pictures (B, 3, f·h, f·w)."""
        return self.up(raw.contiguous(memory_format=torch.channels_last))

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


def channels_last(module: nn.Module) -> None:
    """Lay the convolutions' weights out as the CPU's kernels want them."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
