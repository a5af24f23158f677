"""Dataset versions: immutable lists of slices under their content hash, with one merged MDS index per bucket.

datasets/<version>.json                             the list; "withdrawn" in it says why it may not be loaded
datasets/<version>/<split>/<bucket>/index.json      all shards of the bucket, by relative path: an MDS folder for
                                                    anybody who reads the store without this program
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes
from infra.object_store import ObjectMissing, ObjectStore
from infra.shards.slices import INDEX, Slice, Withdrawn, load_slice

WHOLE = "all"
"""The folder of slices that are in no aspect-ratio bucket."""
_REQUESTS = 16  # small objects fetched at once: a store far away answers each in tens of milliseconds


@dataclass(frozen=True)
class DatasetVersion:
    """An immutable list of slices and its hash."""

    version: str
    slices: tuple[Slice, ...]
    samples: int

    def of(self, split: str) -> list[Slice]:
        """The slices of one split ('train' or 'holdout')."""
        return [piece for piece in self.slices if piece.split == split]


def make_version(store: ObjectStore, slices: Iterable[Slice]) -> DatasetVersion:
    """The dataset version of these slices (order does not matter), recorded with its merged indexes.

    Raises Withdrawn when one of them, or the version itself, was withdrawn.
    """
    ordered = _ordered(slices)
    listing = [asdict(piece) for piece in ordered]
    version = _name(listing)
    key = version_key(version)
    if store.exists(key):
        return load_version(store, version)
    _write_indexes(store, version, ordered)
    store.put(key, canonical_json({"version": version, "slices": listing}))
    return DatasetVersion(version, ordered, sum(piece.samples for piece in ordered))


def version_of(slices: Iterable[Slice]) -> str:
    """The name that the dataset version of these slices would have; nothing is read or written."""
    return _name([asdict(piece) for piece in _ordered(slices)])


def _ordered(slices: Iterable[Slice]) -> tuple[Slice, ...]:
    unique = {piece.id: piece for piece in slices}
    return tuple(sorted(unique.values(), key=lambda piece: (piece.split, piece.bucket, piece.id)))


def _name(listing: list[dict[str, Any]]) -> str:
    return sha256_bytes(canonical_json(listing))


def load_version(store: ObjectStore, version: str) -> DatasetVersion:
    """The dataset version as it was recorded. Raises BackdropError when unknown, changed or withdrawn."""
    found, reason = recorded_version(store, version)
    if reason is not None:
        raise Withdrawn(
            f"the dataset version {version} in {store.uri} was withdrawn: {reason}",
            "materialise training_set and go on from the version that it makes",
        )
    return found


def recorded_version(store: ObjectStore, version: str) -> tuple[DatasetVersion, str | None]:
    """The list as recorded, and why it was withdrawn, if it was. Raises BackdropError when unknown or changed."""
    if not re.fullmatch(r"[0-9a-f]{64}", version):
        raise BackdropError(f"{version!r} is not a dataset version", "give the 64 hexadecimal digits of training_set")
    try:
        record = json.loads(store.get(version_key(version)))
    except ObjectMissing:
        raise BackdropError(
            f"the dataset version {version} is not in {store.uri}", "materialise training_set"
        ) from None
    if _name(record["slices"]) != version:
        raise BackdropError(
            f"the list of the dataset version {version} does not match its hash", "materialise training_set again"
        )
    slices = tuple(Slice(**piece) for piece in record["slices"])
    return DatasetVersion(version, slices, sum(piece.samples for piece in slices)), record.get("withdrawn")


def version_key(version: str) -> str:
    """Where the list of a dataset version lies."""
    return f"datasets/{version}.json"


def merged_index_key(version: str, split: str, bucket: str) -> str:
    """Where the merged index of one split and bucket of a dataset version lies."""
    return f"datasets/{version}/{split}/{bucket or WHOLE}/{INDEX}"


def _write_indexes(store: ObjectStore, version: str, ordered: Iterable[Slice]) -> None:
    for (split, bucket), pieces in groupby(ordered, key=lambda piece: (piece.split, piece.bucket)):
        key = merged_index_key(version, split, bucket)
        folder = posixpath.dirname(key)
        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = pool.map(lambda piece, folder=folder: _shards(store, piece, folder), pieces)
            shards = [shard for some in found for shard in some]
        store.put(key, canonical_json({"shards": shards, "version": 2}))


def _shards(store: ObjectStore, piece: Slice, folder: str) -> list[dict[str, Any]]:
    """The shards of a slice's own index, seen from `folder`. Also tells whether the slice is whole."""
    load_slice(store, piece.prefix)
    if piece.samples == 0:
        return []
    shards: list[dict[str, Any]] = json.loads(store.get(f"{piece.prefix}/{INDEX}"))["shards"]
    for shard in shards:
        raw = shard["raw_data"]
        raw["basename"] = posixpath.relpath(f"{piece.prefix}/{raw['basename']}", folder)
    return shards
