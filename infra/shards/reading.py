"""Slices read back: sample by sample, or in any order. What was withdrawn is refused with the reason."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from infra.errors import BackdropError
from infra.object_store import ObjectStore
from infra.shards.mds import ShardFile
from infra.shards.slices import COMMIT, INDEX, Slice, load_slice, slice_file, slice_files

_REQUESTS = 16  # small objects fetched at once
_OPEN = 256  # shard files; a process may usually have 1,024 open


def local_slice(store: ObjectStore, piece: Slice, cache: Path) -> Path:
    """A local folder with the slice's MDS files: in place for a directory store, else fetched into `cache`.

    Sizes and hashes are always checked. Raises Withdrawn also for a slice that is in the cache.
    """
    return slice_files(store, piece.prefix, load_slice(store, piece.prefix), cache)


def read_slices(store: ObjectStore, slices: Iterable[Slice], cache: Path) -> Iterator[dict[str, Any]]:
    """Every sample of the slices, in their order, each exactly once."""
    for piece in slices:
        if piece.samples:
            yield from read_folder(local_slice(store, piece, cache))


def read_folder(folder: Path) -> Iterator[dict[str, Any]]:
    """The samples of the MDS files in a folder, in order."""
    for shard in json.loads((folder / INDEX).read_bytes())["shards"]:
        file = ShardFile(folder / shard["raw_data"]["basename"], shard)
        for place in range(len(file)):
            yield file.sample(place)


@dataclass(frozen=True)
class _Shard:
    """One shard file: its slice and its entry in the slice's index."""

    piece: Slice
    entry: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.entry["raw_data"]["basename"])


class Samples:
    """The samples of slices in any order, numbered in the order of the list. Safe to use from several threads.

    Every commit record and index is read and checked at once, a shard when it is first needed: whole, by its hash.
    Raises BackdropError naming the slice or the shard that is missing or was changed, Withdrawn with the reason for
    one that a takedown has removed, be it while this is open.
    """

    def __init__(self, store: ObjectStore, slices: Sequence[Slice], cache: Path) -> None:
        self._store, self._cache = store, cache
        self._seen: dict[Path, int | None] = {}  # when what tells of a takedown was last changed
        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = pool.map(self._listed, [piece for piece in slices if piece.samples])
            self._all = [shard for some in found for shard in some]
        self._sizes = np.array([shard.entry["samples"] for shard in self._all], np.int64)
        self._firsts = np.cumsum(self._sizes) - self._sizes  # number of each shard's first sample
        self._paths: dict[int, Path] = {}  # of shards that were found whole
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._lock = Lock()
        self._opening = [Lock() for _ in self._all]

    def __len__(self) -> int:
        return int(self._sizes.sum())

    def shards(self) -> list[tuple[Slice, int]]:
        """Each shard's slice and how many samples it holds, in the order of their numbers."""
        return [(shard.piece, int(shard.entry["samples"])) for shard in self._all]

    def read(self, numbers: np.ndarray, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
        """The samples of these numbers, int64 (N,), with all columns unless some are named."""
        shards = self._shards_of(numbers)
        places = numbers - self._firsts[shards]
        try:
            files = {shard: self._file(shard) for shard in np.unique(shards).tolist()}
            return [
                files[shard].sample(place, columns)
                for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
            ]
        except (BackdropError, OSError, ValueError):
            self._refuse(shards)
            raise

    def open_shards(self, numbers: np.ndarray) -> None:
        """Fetches and checks the shards that hold these samples, so that reading them later takes no longer."""
        for shard in np.unique(self._shards_of(numbers)).tolist():
            self._file(shard)

    def refuse_withdrawn(self, numbers: np.ndarray) -> None:
        """Raises Withdrawn when a slice of these samples was withdrawn since it was read.

        A directory store shows it at once, in the commit record; of a remote one only the cache is looked at, from
        which a takedown on this machine erases the shards.
        """
        for index in np.unique(self._shards_of(numbers)).tolist():
            shard = self._all[index]
            witness = self._record(shard.piece) or self._paths[index]
            now = _changed_at(witness)
            if now is None or self._seen.setdefault(witness, now) != now:
                load_slice(self._store, shard.piece.prefix)
                self._seen[witness] = now

    def _shards_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._firsts, numbers, side="right") - 1

    def _file(self, index: int) -> ShardFile:
        with self._opening[index]:
            file = self._open.get(index)
            if file is None:
                shard = self._all[index]
                if index not in self._paths:
                    self._paths[index] = self._fetch(shard.piece, shard.name)
                file = ShardFile(self._paths[index], shard.entry)
        with self._lock:
            self._open[index] = file
            self._open.move_to_end(index)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return file

    def _refuse(self, shards: np.ndarray) -> None:
        """Why one of these shards cannot be read: withdrawn, or damaged."""
        for shard in (self._all[index] for index in np.unique(shards)):
            self._fetch(shard.piece, shard.name)

    def _fetch(self, piece: Slice, name: str) -> Path:
        """A file of a slice that is not withdrawn, found whole."""
        return slice_file(self._store, piece.prefix, load_slice(self._store, piece.prefix), name, self._cache)

    def _record(self, piece: Slice) -> Path | None:
        return self._store.local_path(f"{piece.prefix}/{COMMIT}")

    def _listed(self, piece: Slice) -> list[_Shard]:
        if path := self._record(piece):
            self._seen[path] = _changed_at(path)  # before it is read
        index = self._fetch(piece, INDEX)
        return [_Shard(piece, entry) for entry in json.loads(index.read_bytes())["shards"]]


def _changed_at(path: Path) -> int | None:
    """When a file was last written, in nanoseconds; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
