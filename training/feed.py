"""What a training asks of its data, and how Composer sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

Batch = dict[str, Tensor]
"""Columns of one length, by name."""


class Loader(Protocol):
    """Global batches by number, the same on any number of ranks (`training.loader`)."""

    @property
    def batch_size(self) -> int: ...

    @property
    def dropped(self) -> Mapping[str, int]: ...

    def at(self, start: int, rank: int = 0, ranks: int = 1) -> Loader: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def ids(self, batch: Batch) -> Sequence[str]: ...

    def close(self) -> None: ...


class Batches:
    """Composer's view of a loader: one epoch without end, the first batch of which may be looked at before."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._batches = iter(loader)
        self._seen: list[Batch] = []

    def first(self) -> Batch:
        if not self._seen:
            self._seen.append(next(self._batches))
        return self._seen[0]

    def __iter__(self) -> Iterator[Batch]:
        while self._seen:
            yield self._seen.pop()
        yield from self._batches
