"""Perceptual distance (LPIPS: Zhang et al., "The unreasonable effectiveness of deep features", 2018).

`features` of the preset is "random", a safetensors file of VGG-16, or "package.module:build" with build() → Features.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from infra.errors import BackdropError
from training.frozen import beside

RANDOM = "random"
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions between poolings (Simonyan and Zisserman 2014)."""
RANDOM_STAGES = ((16,), (32,), (64,), (64,))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(Protocol):
    """Frozen features to compare pictures by."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) in [-1, 1] → maps (B, Cₗ, Hₗ, Wₗ), one per layer, with gradients to the pictures."""

    def weights(self, layer: int) -> Tensor | None:
        """How much each channel of a layer counts (Cₗ,); None: all alike."""


def perceptual_distance(features: Features, pictures: Tensor, others: Tensor) -> Tensor:
    """Distance of each pair of (B, 3, H, W) in [-1, 1] → (B,), 0 for equal pictures (LPIPS, equation 1)."""
    ours, theirs = features(pictures), features(others)
    total = torch.zeros(len(pictures), device=pictures.device)
    for layer, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        difference = (_unit(a) - _unit(b)).square()  # (B, Cₗ, Hₗ, Wₗ)
        weights = features.weights(layer)
        each = difference.sum(1) if weights is None else (difference * weights[:, None, None]).sum(1)
        total = total + each.mean((1, 2))
    return total


class ConvFeatures(nn.Module):
    """Stages of 3x3 convolutions and ReLU with max pooling between; what leaves each stage is a feature map."""

    mean: Tensor
    std: Tensor

    def __init__(self, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        channels, self.stages = 3, nn.ModuleList()
        for widths in stages:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.stages.append(nn.Sequential(*layers))
        self.linear: list[Tensor] = []
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        beside(self, images)
        maps: list[Tensor] = []
        x = ((images + 1) / 2 - self.mean) / self.std
        for stage in self.stages:
            x = stage(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps

    def weights(self, layer: int) -> Tensor | None:
        if not self.linear:
            return None
        self.linear[layer] = self.linear[layer].to(self.mean.device)  # moved once
        return self.linear[layer]


def random_features(seed: int = 0) -> ConvFeatures:
    """Untrained convolutions, the same for a seed: no weights to fetch, and already better than pixels (ibid., §4)."""
    features = ConvFeatures(RANDOM_STAGES)
    generator = torch.Generator().manual_seed(seed)
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return features


def vgg16_features(tensors: Mapping[str, Tensor]) -> ConvFeatures:
    """VGG-16 under torchvision's names ("features.0.weight", …), with LPIPS' linear layers if they are there too
    ("lin0.model.1.weight", …).

    Raises BackdropError naming the first tensor that is missing.
    """
    features = ConvFeatures(VGG16)
    index = 0  # torchvision counts convolutions, activations and poolings
    try:
        for stage in features.stages:
            for layer in stage.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight.copy_(tensors[f"features.{index}.weight"])
                    layer.bias.copy_(tensors[f"features.{index}.bias"])  # type: ignore[union-attr]
                    index += 2
            index += 1
        if "lin0.model.1.weight" in tensors:
            features.linear = [tensors[f"lin{stage}.model.1.weight"].float().flatten() for stage in range(len(VGG16))]
    except KeyError as missing:
        raise BackdropError(
            f"These are not VGG-16's weights: {missing} is missing.", "Save torchvision's vgg16().state_dict()."
        ) from None
    return features


def open_features(name: str) -> Features:
    """The features that a preset names. Raises BackdropError when there are none by that name."""
    if name == RANDOM:
        return random_features()
    if name.endswith(".safetensors"):
        try:
            return vgg16_features(load_file(Path(name)))
        except (OSError, SafetensorError) as error:
            raise BackdropError(f"Cannot read the features {name}: {error}", "Give a safetensors file.") from error
    module, _, attribute = name.partition(":")
    try:
        built: Features = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise BackdropError(
            f"There are no features {name!r}: {error}.",
            f"Give {RANDOM!r}, a .safetensors file of VGG-16 or package.module:build as perceptual.features.",
        ) from error
    return built


def _unit(features: Tensor) -> Tensor:
    """Each cell's channels (B, C, H, W) at length one; where all are zero they stay so, with a finite gradient."""
    features = features.float()
    return features * (features.square().sum(1, keepdim=True) + 1e-10).rsqrt()
