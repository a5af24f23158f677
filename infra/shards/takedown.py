"""Samples taken out of slices again. Each step may be repeated: whoever was killed in between runs them all once more.

withdraw (from now on every reader refuses it) ─► rewrite without the samples ─► delete the old one's objects
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Set
from itertools import chain
from pathlib import Path
from typing import Any

from infra.files import canonical_json
from infra.object_store import ObjectStore
from infra.shards.reading import read_folder
from infra.shards.slices import COMMIT, Slice, recorded_slice, slice_files, write_slice
from infra.shards.versions import recorded_version, version_key


def withdraw_slice(store: ObjectStore, piece: Slice, reason: str) -> None:
    """Makes every reader refuse the slice; its record stays and says why. The first reason counts."""
    record = recorded_slice(store, piece.prefix)
    if "withdrawn" not in record:
        store.put(f"{piece.prefix}/{COMMIT}", canonical_json({**record, "withdrawn": reason}))


def withdraw_version(store: ObjectStore, version: str, reason: str) -> None:
    """Makes loading the dataset version an error that says why. Its list and hash stay, its merged indexes go."""
    found, already = recorded_version(store, version)
    if already is None:
        listing = [vars(piece) for piece in found.slices]
        record = {"version": version, "slices": listing, "withdrawn": reason}
        store.put(version_key(version), canonical_json(record))
    store.delete_prefix(f"datasets/{version}/")


def rewrite_slice(
    store: ObjectStore,
    piece: Slice,
    without: Set[str],
    *,
    root: str | None = None,
    meta: Mapping[str, Any] | None = None,
    scratch: Path | None = None,
) -> Slice | None:
    """The slice of the samples whose id is not in `without`; None when none is left.

    Its bytes and its id are those that packing the remaining samples gives, with the same columns and meta and below
    the same root unless others are given. `piece` may be withdrawn already, as long as its objects are there; those
    of a remote store pass through a folder in `scratch`, which whoever kills this process has to empty.
    """
    record = recorded_slice(store, piece.prefix)
    with tempfile.TemporaryDirectory(prefix="rewrite-", dir=scratch) as cache:
        folder = slice_files(store, piece.prefix, record, Path(cache))
        left = (sample for sample in read_folder(folder) if sample["id"] not in without)
        first = next(left, None)
        if first is None:
            return None
        where = root if root is not None else piece.prefix.rpartition("/")[0]
        kept = record["meta"] if meta is None else meta
        return write_slice(store, where, record["columns"], chain([first], left), kept)


def delete_slice(store: ObjectStore, piece: Slice) -> int:
    """Deletes the objects of a withdrawn slice but its record; how many there were. Raises ValueError for another."""
    if "withdrawn" not in recorded_slice(store, piece.prefix):
        raise ValueError(f"the slice {piece.prefix} is not withdrawn")
    keys = [key for key in store.list(f"{piece.prefix}/") if not key.endswith(f"/{COMMIT}")]
    for key in keys:
        store.delete(key)
    return len(keys)
