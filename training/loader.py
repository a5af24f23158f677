"""The batches of a plan, read ahead of the training loop: this rank's part of each global batch, without end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.object_store import ObjectStore
from infra.shards import Samples, Slice
from infra.shards.versions import WHOLE
from training.draws import GLOBAL_SIZE, POSITION
from training.feed import Batch
from training.plan import GlobalBatch, Plan

log = logging.getLogger(__name__)

Collate = Callable[[list[dict[str, Any]], str], Batch]
"""collate(samples, the bucket they are all of) → columns of one length; "" is no bucket."""

SAMPLE = "sample"
"""Key of a batch: each sample's number in the plan, int64 (B,); `Loader.ids` gives their ids."""

AHEAD = 2
"""Batches that are ready, or being made, while one is trained on; one more for each further thread."""
SHARDS_AHEAD = 64
"""Batches by which shards are fetched and checked before they are read."""


class Loader(Iterator[Batch]):
    """An iterator over this rank's batches from global batch `start` on, through all epochs, without end.

    Rank r of W gets positions r·B/W … (r+1)·B/W - 1 of each global batch; that W divides B is for `ranks.share_of` to
    check. To the collated columns come `position`, `global_size` and `sample`, int64 (B/W,). `len` is the global
    batches of one epoch. Reading ahead begins with `iter()`, or with the first batch that is asked for. `dropped` names
    what an epoch leaves out of each bucket, see Plan.

    What `Samples` raises comes with the batch it concerns.
    """

    def __init__(
        self,
        samples: Samples,
        plan: Plan,
        collate: Collate,
        *,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 1,
    ) -> None:
        self.samples, self.plan, self.collate, self.threads = samples, plan, collate, threads
        self.start, self.rank, self.ranks = start, rank, ranks
        self.batch_size = plan.batch_size
        self.dropped = {bucket or WHOLE: count for bucket, count in plan.dropped.items()}
        self._next = self._sought = start  # the global batches that are made, and sought for shards, next
        self._made: deque[Future[Batch]] = deque()
        self._makers: ThreadPoolExecutor | None = None
        self._seeker: ThreadPoolExecutor | None = None
        self._seeking: Future[None] | None = None
        self._closing = Event()

    def at(self, start: int, rank: int = 0, ranks: int = 1) -> Loader:
        """The same plan from global batch `start` on, as rank `rank` of `ranks` sees it."""
        return Loader(self.samples, self.plan, self.collate, start=start, rank=rank, ranks=ranks, threads=self.threads)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Loader:
        self._read_ahead()
        return self

    def __next__(self) -> Batch:
        self._read_ahead()
        batch = self._made.popleft().result()
        self.samples.refuse_withdrawn(batch[SAMPLE].numpy())  # a takedown may have come between
        return batch

    def batch(self, number: int) -> Batch:
        """This rank's part of one global batch, made at once and without reading ahead."""
        return self._make(self.plan.batch(number))

    def ids(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The ids of the images in a batch of this loader."""
        return [str(row["id"]) for row in self.samples.read(batch[SAMPLE].cpu().numpy(), ["id"])]

    def close(self) -> None:
        """Ends the threads that read ahead, with the batches and the shard that they are at."""
        self._closing.set()
        for pool in (self._makers, self._seeker):
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _read_ahead(self) -> None:
        if self._makers is None or self._seeker is None:
            self._makers = ThreadPoolExecutor(self.threads, thread_name_prefix="batches")
            self._seeker = ThreadPoolExecutor(1, thread_name_prefix="shards")
        while len(self._made) < AHEAD + self.threads:
            self._made.append(self._makers.submit(self._make, self.plan.batch(self._next)))
            self._next += 1
        wanted = range(max(self._sought, self._next), self._next + SHARDS_AHEAD)
        if wanted and (self._seeking is None or self._seeking.done()):
            numbers = np.concatenate([self._mine(self.plan.batch(number).samples) for number in wanted])
            self._seeking = self._seeker.submit(self._seek, numbers)
            self._sought = wanted.stop

    def _seek(self, numbers: np.ndarray) -> None:
        """Fetches and checks the shards of these samples, one by one: closing waits for no more than one."""
        ends = np.cumsum(np.concatenate(list(self.plan.buckets.values())))
        _, firsts = np.unique(np.searchsorted(ends, numbers, side="right"), return_index=True)
        for number in numbers[firsts]:
            if self._closing.is_set():
                return
            self.samples.open_shards(np.array([number]))

    def _make(self, whole: GlobalBatch) -> Batch:
        numbers = self._mine(whole.samples)
        batch = self.collate(self.samples.read(numbers), whole.bucket)
        batch[POSITION] = torch.from_numpy(self._mine(np.arange(len(whole.samples))))
        batch[GLOBAL_SIZE] = torch.full((len(numbers),), len(whole.samples))
        batch[SAMPLE] = torch.from_numpy(numbers)
        return batch

    def _mine(self, of_all: np.ndarray) -> np.ndarray:
        """This rank's part of a global batch (B,) → (B/W,)."""
        share = len(of_all) // self.ranks
        return of_all[self.rank * share : (self.rank + 1) * share]


def open_loader(
    store: ObjectStore,
    slices: Sequence[Slice],
    cache: Path,
    batch_size: int,
    seed: int,
    collate: Collate,
    *,
    threads: int = 1,
) -> Loader:
    """A loader over slices; those of one bucket name make batches of their own. Says in the log what is dropped."""
    ordered = sorted(slices, key=lambda piece: piece.bucket)  # stable: within a bucket the order of the list
    samples = Samples(store, ordered, cache)
    shards: dict[str, list[int]] = {}
    for piece, count in samples.shards():
        shards.setdefault(piece.bucket, []).append(count)
    plan = Plan(seed, shards, batch_size)
    log_dropped(plan)
    return Loader(samples, plan, collate, threads=threads)


def log_dropped(plan: Plan) -> None:
    """Says what each epoch leaves out, bucket by bucket; a warning for a bucket of which nothing is learned."""
    for bucket, count in plan.dropped.items():
        if not count:
            continue
        size = plan.sizes[bucket]
        whole = " (all of it: it is smaller than a batch)" if count == size else ""
        log.log(
            logging.WARNING if whole else logging.INFO,
            "bucket %s: %d of %d samples are in no batch of %d in each epoch%s",
            *(bucket or WHOLE, count, size, plan.batch_size, whole),
        )
