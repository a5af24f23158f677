"""A tiny segmenter that finds the sample catalogue's product in a generated picture.

It learns from the catalogue's true masks and sees the picture alone, never the mask that a model was given: what it
finds beyond that mask is what the model painted there. Below an IoU of `expansion.LEAST_IOU` it is not to be used.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64
"""Pixels at which it works; larger pictures are reduced, and its answer enlarged."""

SIDES = 8  # an eighth of the picture's width at either side is hardly ever product
_CHUNK = 128


class TinyUNet(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] → logits (B, S, S); S divisible by 16. A U-Net (Ronneberger et al. 2015)
    on a picture folded to half its side, which is where a CPU is fast."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), _conv(24, width), _conv(width, width))
        self.down1 = nn.Sequential(_conv(width, 2 * width, stride=2), _conv(2 * width, 2 * width))
        self.down2 = nn.Sequential(_conv(2 * width, 3 * width, stride=2), _conv(3 * width, 3 * width))
        self.down3 = nn.Sequential(_conv(3 * width, 4 * width, stride=2), _conv(4 * width, 4 * width))
        self.up2 = _conv(7 * width, 3 * width)
        self.up1 = _conv(5 * width, 2 * width)
        self.leave = nn.Sequential(
            _conv(3 * width, width), _conv(width, width), nn.Conv2d(width, 4, 3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x - _sides(x)], dim=1)  # (B, 6, S, S)
        a = self.enter(x)  # (B, W, S/2, S/2)
        b = self.down1(a)  # (B, 2W, S/4, S/4)
        c = self.down2(b)  # (B, 3W, S/8, S/8)
        d = self.down3(c)  # (B, 4W, S/16, S/16)
        c = self.up2(torch.cat([c, _double(d)], dim=1))  # (B, 3W, S/8, S/8)
        b = self.up1(torch.cat([b, _double(c)], dim=1))  # (B, 2W, S/4, S/4)
        return self.leave(torch.cat([a, _double(b)], dim=1))[:, 0]  # (B, S, S)


class ProductSegmenter:
    """A trained network, asked about pictures of any size."""

    def __init__(self, network: TinyUNet) -> None:
        self.network = network.eval()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) → bool (N, H, W), True on the product."""
        height, width = images.shape[1:3]
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _CHUNK):
                logits = self.network(_tensor(_reduced(images[start : start + _CHUNK])))[:, None]
                if (height, width) != (SIDE, SIDE):
                    logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
                found.append((logits[:, 0] > 0).numpy())
        return np.concatenate(found)


def train_segmenter(
    images: np.ndarray,
    masks: np.ndarray,
    *,
    steps: int,
    seed: int,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProductSegmenter:
    """Learn from pictures uint8 (N, H, W, 3) and masks bool (N, H, W). The same arguments give the same network.

    Raises:
        ValueError: no pictures, or as many masks as pictures are not there.
    """
    if len(images) == 0 or images.shape[:3] != masks.shape:
        raise ValueError(f"pictures {images.shape} and masks {masks.shape} do not pair")
    small, true = _reduced(images), _reduced_masks(masks)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TinyUNet()
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps + 1, pct_start=0.15)
    for step in range(steps):
        rows = torch.randint(len(small), (min(batch_size, len(small)),), generator=generator).numpy()
        x, y = _augmented(_tensor(small[rows]), torch.from_numpy(true[rows]).float(), generator)
        loss = _loss(network(x.contiguous(memory_format=torch.channels_last)), y)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(step + 1, steps)
    return ProductSegmenter(network)


def _loss(logits: Tensor, true: Tensor) -> Tensor:
    """Cross entropy per pixel and one minus the soft Dice overlap per picture; both (B, S, S)."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * true).sum((1, 2)) + 1
    dice = overlap / (probability.sum((1, 2)) + true.sum((1, 2)) + 1)
    return F.binary_cross_entropy_with_logits(logits, true) + (1 - dice).mean()


def _augmented(x: Tensor, true: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrored, of another brightness, and half of them softened as an autoencoder's pictures are."""
    count = len(x)
    mirrored = (torch.rand(count, generator=generator) < 0.5)[:, None, None]
    x = torch.where(mirrored[:, None], x.flip(3), x)
    true = torch.where(mirrored, true.flip(2), true)
    gain = 1 + 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    lift = 0.05 * torch.randn(count, 3, 1, 1, generator=generator)
    soft = (torch.rand(count, generator=generator) < 0.5)[:, None, None, None]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    grain = 0.03 * torch.randn(x.shape, generator=generator)
    return torch.where(soft, 0.5 * (x + blurred), x) * gain + lift + grain, true


def _reduced(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) at `SIDE`."""
    if images.shape[1:3] == (SIDE, SIDE):
        return images
    return np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images])


def _reduced_masks(masks: np.ndarray) -> np.ndarray:
    """bool (N, H, W) at `SIDE`: a pixel that is half covered belongs to the product."""
    if masks.shape[1:] == (SIDE, SIDE):
        return masks
    shares = masks.astype(np.float32)
    return np.stack([cv2.resize(share, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for share in shares]) >= 0.5


def _tensor(images: np.ndarray) -> Tensor:
    """uint8 (N, S, S, 3) → float32 (N, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _sides(x: Tensor) -> Tensor:
    """Each row's median colour beside the product, (B, 3, S, 1): what a wall or a floor looks like at that height."""
    edge = x.shape[3] // SIDES
    return torch.cat([x[..., :edge], x[..., -edge:]], dim=3).median(dim=3, keepdim=True).values


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    layer = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out), nn.SiLU())
