"""The reward's network: what a picture shows and what a caption asks for, as vectors whose product is the score.

Two encoders, as in PickScore (Kirstain et al. 2023) but small. A picture is summed up by cells before it is learned
from (`cells`), which shows colours, light and shadow as they are and takes little data and a CPU's seconds; a caption
is read by attention over the line's own frozen text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.preferences import SIDE

CELLS = 16
CHANNELS = 9
_EDGE = 8  # an eighth of the width at either side shows wall and floor, and what differs from them is a shadow
_SLOTS = 6  # things that a caption says, each looked for by a query of its own
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class RewardConfig:
    text_width: int
    width: int = 32
    space: int = 64


class RewardNetwork(nn.Module):
    """Pictures and captions → vectors of one space, whose product is the reward."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.config = config
        width, space = config.width, config.space
        self.eyes = nn.Sequential(
            nn.Conv2d(CHANNELS, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(),
            nn.Linear(2 * width * (CELLS // 4) ** 2, 4 * space), nn.SiLU(), nn.Linear(4 * space, space),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(config.text_width))
        self.register_buffer("deviation", torch.ones(config.text_width))
        self.read = nn.Linear(config.text_width, space)
        self.queries = nn.Parameter(torch.randn(_SLOTS, space) / space**0.5)
        self.mind = nn.Sequential(nn.Linear(_SLOTS * space, 4 * space), nn.SiLU(), nn.Linear(4 * space, space))
        self.worth = nn.Parameter(torch.zeros(space))  # of a picture for itself, whatever was asked

    def pictures(self, seen: Tensor) -> Tensor:
        """What `cells` gives, (B, `CHANNELS`, `CELLS`, `CELLS`) → (B, D)."""
        return self.eyes(seen)

    def captions(self, text: Tensor, length: Tensor) -> Tensor:
        """Tokens (B, L, E) and their numbers (B,) → (B, D)."""
        tokens = self.read((text.float() - self.mean) / self.deviation)  # (B, L, D)
        away = torch.arange(text.shape[1]) >= length[:, None]  # (B, L)
        heed = torch.einsum("qd,bld->bql", self.queries, tokens).masked_fill(away[:, None], -torch.inf)
        slots = torch.einsum("bql,bld->bqd", heed.softmax(dim=2), tokens)
        return self.mind(slots.flatten(1)) + self.worth

    @torch.no_grad()
    def normalise(self, text: Tensor, length: Tensor) -> None:
        """Settle what tokens (N, L, E) are centred and scaled by: words differ in little beside what they share."""
        words = text[torch.arange(text.shape[1]) < length[:, None]].float()  # (words, E)
        self.mean.copy_(words.mean(0))
        self.deviation.copy_(words.std(0).clamp(min=1e-4))


def cells(images: Sequence[np.ndarray], products: Sequence[np.ndarray]) -> Tensor:
    """What each cell of a composite shows, float32 (N, `CHANNELS`, `CELLS`, `CELLS`).

    The background's colour (3), how it differs from the row's at the picture's sides (3), its unrest, the product's
    share, and how much lighter than itself the product is there.

    Args:
        images: N pictures, uint8 (`SIDE`, `SIDE`, 3).
        products: N masks, bool (`SIDE`, `SIDE`).
    """
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, 3, S, S)
    mask = torch.from_numpy(np.stack(products))[:, None].float()  # (N, 1, S, S)
    light = (x * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    edge = SIDE // _EDGE
    beside = torch.cat([x[..., :edge], x[..., -edge:]], dim=3).median(dim=3, keepdim=True).values  # (N, 3, S, 1)
    free = 1 - mask
    unrest = F.pad(light.diff(dim=3).abs() * free[..., 1:] * free[..., :-1], (1, 0))
    own = light - (light * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
    background = torch.cat([x, 4 * (x - beside), 20 * unrest], dim=1) * free  # brought to about one size
    share = _pooled(mask)
    return torch.cat(
        [_pooled(background) / (1 - share).clamp(min=1 / 16), share, _pooled(4 * own * mask) / share.clamp(min=1 / 16)],
        dim=1,
    )


def _pooled(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, SIDE // CELLS)
