"""Which samples each global batch of a run holds: a pure function of seed, samples and batch size.

The plan knows no ranks. Rank r of W takes places r·B/W … (r+1)·B/W - 1 of each global batch, so the batches are the
same on any number of ranks, and to resume is to start at a batch's number. An epoch, bucket by bucket:

    shards in a drawn order ─► samples shuffled within blocks of BLOCK, so that reading stays near a few shards
        ─► cut into batches of one bucket, the rest dropped ─► the buckets' batches mixed in a drawn order

What is there is part of the function. After a takedown the slices are others, and so is the plan: the old ones refuse
to be read (`infra.shards.Withdrawn`), and the run on the new ones, having another spec, starts at its first batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import BackdropError

BLOCK = 1 << 14
"""Samples that are shuffled together."""


@dataclass(frozen=True)
class GlobalBatch:
    """One batch over all ranks: its number in the run, its bucket, and its samples' numbers, int64 (B,)."""

    number: int
    bucket: str
    samples: np.ndarray


class Plan:
    """`buckets` says how many samples each shard has, bucket by bucket; samples are numbered in that order from 0.

    Of these the plan uses the `chosen` numbers, ascending, or all of them.

    The global batch is as large as the largest bucket where that is smaller than `batch_size`. `dropped` says how many
    samples of each bucket an epoch leaves out (others in each epoch): what is left of its last batch, which for a
    bucket smaller than the batch is all of it. Raises BackdropError when there is no sample at all.
    """

    def __init__(
        self,
        seed: int,
        buckets: Mapping[str, Sequence[int]],
        batch_size: int,
        block: int = BLOCK,
        chosen: np.ndarray | None = None,
    ) -> None:
        self.seed, self.buckets, self.block, self.chosen = seed, buckets, block, chosen
        shards = {name: np.array(sizes, np.int64) for name, sizes in buckets.items()}
        if chosen is not None:
            shards = _counted(shards, chosen)
        self.shards = {name: sizes for name, sizes in shards.items() if sizes.sum()}
        self.sizes = {name: int(sizes.sum()) for name, sizes in self.shards.items()}
        if not self.sizes:
            raise BackdropError("there is no sample to learn from: every slice is empty", "look at filtered_shards")
        self.batch_size = min(batch_size, max(self.sizes.values()))
        self.dropped = {name: size % self.batch_size for name, size in self.sizes.items()}
        self._epochs: dict[int, _Epoch] = {}

    def only(self, chosen: np.ndarray) -> Plan:
        """The plan of these samples alone, numbered as they are here."""
        return Plan(self.seed, self.buckets, self.batch_size, self.block, chosen)

    def __len__(self) -> int:
        """Batches of one epoch."""
        return sum(size // self.batch_size for size in self.sizes.values())

    def batch(self, number: int) -> GlobalBatch:
        """The global batch of a run's step `number`, counted from 0 over all epochs."""
        which, place = divmod(number, len(self))
        if which not in self._epochs:
            # Two: who reads ahead asks in turn for batches on either side of an epoch's end.
            self._epochs = {**dict(list(self._epochs.items())[-1:]), which: _Epoch(self, which)}
        bucket, samples = self._epochs[which].batch(place)
        return GlobalBatch(number, bucket, samples if self.chosen is None else self.chosen[samples])


class _Epoch:
    """The order of one epoch's batches."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.names, self.size = tuple(plan.sizes), plan.batch_size
        counts = [size // plan.batch_size for size in plan.sizes.values()]
        key = f"{plan.seed}/{number}"
        bucket = np.repeat(np.arange(len(counts)), counts)
        self.bucket = bucket[_order(len(bucket), f"{key}/buckets")]  # (batches,)
        self.turn = np.empty_like(self.bucket)  # (batches,): how many of its bucket went before
        for index, count in enumerate(counts):
            self.turn[self.bucket == index] = np.arange(count)
        firsts = np.cumsum([0, *plan.sizes.values()])
        self.samples = [
            _Samples(shards, int(first), plan.block, f"{key}/{name}")
            for (name, shards), first in zip(plan.shards.items(), firsts[:-1], strict=True)
        ]

    def batch(self, place: int) -> tuple[str, np.ndarray]:
        bucket, begin = int(self.bucket[place]), int(self.turn[place]) * self.size
        return self.names[bucket], self.samples[bucket].between(begin, begin + self.size)


class _Samples:
    """One bucket's samples in the order of one epoch, made block by block."""

    def __init__(self, shards: np.ndarray, first: int, block: int, key: str) -> None:
        order = _order(len(shards), f"{key}/shards")
        self.size = shards[order]
        self.end = np.cumsum(self.size)  # of each shard, in the drawn order
        self.first = first + (np.cumsum(shards) - shards)[order]  # number of each shard's first sample
        self.block, self.key = block, key
        self._made: dict[int, np.ndarray] = {}

    def between(self, begin: int, end: int) -> np.ndarray:
        """The numbers of samples begin … end - 1 of the order."""
        first, last = begin // self.block, (end - 1) // self.block
        found = np.concatenate([self._numbers(index) for index in range(first, last + 1)])
        return found[begin - first * self.block : end - first * self.block]

    def _numbers(self, index: int) -> np.ndarray:
        if index not in self._made:
            begin = index * self.block
            count = min(self.block, int(self.end[-1]) - begin)
            place = begin + _order(count, f"{self.key}/{index}")
            shard = np.searchsorted(self.end, place, side="right")
            # A batch spans few blocks, and blocks are asked for in their order: the newest are enough to keep.
            kept = dict(list(self._made.items())[-2:])
            self._made = {**kept, index: self.first[shard] + place - (self.end[shard] - self.size[shard])}
        return self._made[index]


def _counted(shards: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    """How many of the chosen numbers lie in each shard."""
    ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *shards.values()]))
    counts = np.diff(np.searchsorted(chosen, ends))
    parts = np.split(counts, np.cumsum([len(sizes) for sizes in shards.values()])[:-1])
    return dict(zip(shards, parts, strict=True))


def _order(count: int, key: str) -> np.ndarray:
    """A permutation of `count` that depends on `key` alone: raw Philox words, which no version of numpy changes."""
    digest = hashlib.sha256(key.encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return np.argsort(words, kind="stable")
