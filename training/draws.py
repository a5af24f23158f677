"""One step's random numbers, the same wherever and whenever they are drawn.

A counter-based generator (Philox-4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): each
number is a function of the run's seed, the global step, the sample's place in the global batch, a named stream and an
index, and of nothing else. So a draw depends neither on the rank that makes it, nor on the microbatch, nor on how often
the run was interrupted. Integer arithmetic is exact on every device.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

POSITION, GLOBAL_SIZE = "position", "global_size"
"""Keys of a batch: each sample's place in the global batch, and how many the global batch has; int64 (B,) both."""

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


@dataclass(frozen=True)
class Draws:
    """The random numbers of samples at `positions` (B,) of a global batch of `total`, at one step of one run."""

    seed: int
    step: int
    positions: Tensor
    total: int

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], seed: int, step: int, total: int | None = None) -> Draws:
        """Those of a batch that says where its samples stand; one that does not is a whole global batch.

        A known `total` is not read from the batch, which would wait for the GPU to have done all that it was given.
        """
        if POSITION in batch:
            return cls(seed, step, batch[POSITION], int(batch[GLOBAL_SIZE][0]) if total is None else total)
        first = next(iter(batch.values()))
        return cls(seed, step, torch.arange(len(first), device=first.device), len(first))

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Float32 (B, *shape) in [0, 1), multiples of 2⁻²⁴."""
        return self._uniform(self.positions, stream, shape)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal float32 (B, *shape), by Box and Muller."""
        count = math.prod(shape)
        pairs = self._uniform(self.positions, stream, (2, (count + 1) // 2))
        radius = (-2 * torch.log1p(-pairs[:, 0])).sqrt()  # 1 - u is never 0
        angle = 2 * math.pi * pairs[:, 1]
        both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)  # (B, 2·⌈count/2⌉)
        return both[:, :count].reshape(-1, *shape)

    def integers(self, stream: str, high: int | Tensor, *shape: int) -> Tensor:
        """Int64 (B, *shape) in [0, high)."""
        return (self.uniform(stream, *shape) * high).long()

    def strata(self, stream: str) -> Tensor:
        """Uniforms (B,) in [0, 1), one from each of `total` equal strata over the global batch."""
        everyone = torch.arange(self.total, device=self.positions.device)
        order = self._uniform(everyone, stream + "/order", ()).argsort(stable=True)
        stratum = torch.empty_like(order)
        stratum[order] = everyone
        return (stratum[self.positions] + self.uniform(stream)) / self.total

    def _uniform(self, positions: Tensor, stream: str, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        blocks = (count + 3) // 4
        index = torch.arange(blocks, device=positions.device)
        place = positions[:, None].expand(-1, blocks)  # (B, blocks)
        counter = (index.expand_as(place), place, self.step & _LOW, zlib.crc32(stream.encode()))
        words = philox(counter, (self.seed & _LOW, (self.seed >> 32) & _LOW))  # 4 × (B, blocks)
        numbers = torch.stack(words, dim=2).flatten(1)[:, :count]  # (B, count)
        return ((numbers >> 8).float() * 2.0**-24).reshape(-1, *shape)


def philox(counter: tuple[Tensor | int, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox-4x32-10: four words of counter (tensors of int64 below 2³², or numbers) → four words (int64 below 2³²)."""
    like = next(word for word in counter if isinstance(word, Tensor))
    c0, c1, c2, c3 = (word if isinstance(word, Tensor) else torch.full_like(like, word) for word in counter)
    k0, k1 = key
    for _ in range(10):
        # A product of two 32-bit words may wrap to a negative int64; its bits are the right ones.
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3
