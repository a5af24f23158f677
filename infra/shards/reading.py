"""Slices read back: sample by sample, or as a shuffled stream. What was withdrawn is refused with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BackdropError
from infra.object_store import ObjectStore
from infra.shards.slices import Slice, load_slice, slice_files

if TYPE_CHECKING:
    from streaming.base import StreamingDataset


def local_slice(store: ObjectStore, piece: Slice, cache: Path) -> Path:
    """A local folder with the slice's MDS files: in place for a directory store, else fetched into `cache`.

    Sizes are always checked; a fetched file also by its hash. Raises Withdrawn also for a slice that is in the cache.
    """
    return slice_files(store, piece.prefix, load_slice(store, piece.prefix), cache)


def read_slices(store: ObjectStore, slices: Iterable[Slice], cache: Path) -> Iterator[dict[str, Any]]:
    """Every sample of the slices, in their order, each exactly once."""
    for piece in slices:
        if piece.samples:
            yield from read_folder(local_slice(store, piece, cache))


def read_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """The samples of the MDS files in a folder, in order."""
    from infra._compat.streaming import LocalDataset

    data = LocalDataset(str(folder))
    for index in range(len(data)):
        yield data[index]


def streaming_dataset(
    store: ObjectStore, slices: Sequence[Slice], cache: Path, batch_size: int, shuffle: bool, seed: int
) -> StreamingDataset:
    """A StreamingDataset with one stream per slice; the order is a function of `seed` and the list alone."""
    from infra._compat.streaming import Stream, StreamingDataset

    filled = [piece for piece in slices if piece.samples > 0]
    if not filled:
        raise BackdropError("there is no sample to stream: every slice of the list is empty", "look at filtered_shards")
    return StreamingDataset(
        streams=[Stream(local=str(local_slice(store, piece, cache))) for piece in filled],
        batch_size=batch_size,
        shuffle=shuffle,
        shuffle_seed=seed,
        num_canonical_nodes=1,
    )
