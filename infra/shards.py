"""Slices of a data set as MDS shards: written aside, content-addressed, committed by one small object at the end.

A slice is the unit of work, of retry and of commit. Its objects lie under ``<root>/<id>/``; ``slice.json`` is written
last and only then does the slice exist: a process killed at any moment leaves objects that nobody takes for whole, and
running again writes the same bytes under the same keys. A dataset version is the content hash of a list of slices.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BackdropError
from infra.files import canonical_json, full_disk_named, sha256_bytes, sha256_file
from infra.object_store import ObjectMissing, ObjectStore

if TYPE_CHECKING:
    from streaming.base import StreamingDataset

FILTERED_COLUMNS: dict[str, str] = {
    "id": "str",
    "image": "bytes",
    "mask": "bytes",  # PNG, L, 255 = product; b"" = none
    "captions": "json",
    "attributes": "json",
    "width": "int",
    "height": "int",
    "source": "str",
}
"""Columns of a slice of filtered images."""

COMMIT = "slice.json"
_SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class Slice:
    """A committed slice: content hash, key prefix (no trailing slash), number of samples, split."""

    id: str
    prefix: str
    samples: int
    split: str = "train"

    @property
    def sha256(self) -> str:
        """The slice's identity is the hash of its bytes."""
        return self.id


@dataclass(frozen=True)
class DatasetVersion:
    """An immutable list of slices and its hash."""

    version: str
    slices: tuple[Slice, ...]
    samples: int

    def of(self, split: str) -> list[Slice]:
        """The slices of one split ('train' or 'holdout')."""
        return [piece for piece in self.slices if piece.split == split]


def write_slice(
    store: ObjectStore,
    root: str,
    columns: Mapping[str, str],
    samples: Iterable[Mapping[str, Any]],
    meta: Mapping[str, Any],
) -> Slice:
    """Packs `samples` and commits them as one slice below the key prefix `root`.

    `meta` (JSON; 'split' defaults to 'train') becomes part of the identity. The same columns, samples and meta give
    the same id and the same bytes; a slice that is already committed is not uploaded again.
    """
    from infra._compat.streaming import MDSWriter

    folder = Path(tempfile.mkdtemp(prefix="slice-"))
    try:
        with full_disk_named(folder):
            writer = MDSWriter(columns=dict(columns), out=str(folder / "mds"), size_limit=_SHARD_BYTES, max_workers=1)
            count = 0
            with writer:
                for sample in samples:
                    writer.write({name: _canonical(columns[name], sample[name]) for name in columns})
                    count += 1
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted((folder / "mds").iterdir())
        }
        identity = {"columns": dict(columns), "files": files, "meta": dict(meta), "samples": count}
        slice_id = sha256_bytes(canonical_json(identity))
        piece = Slice(slice_id, f"{root}/{slice_id}", count, str(meta.get("split", "train")))
        commit = f"{piece.prefix}/{COMMIT}"
        if not store.exists(commit):
            for name in files:
                store.put_file(f"{piece.prefix}/{name}", folder / "mds" / name)
            store.put(commit, canonical_json({"id": slice_id, **identity}))
        return piece
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _canonical(encoding: str, value: Any) -> Any:
    """One spelling per JSON value: MDS writes keys in the order in which it meets them."""
    return json.loads(canonical_json(value)) if encoding == "json" else value


def load_slice(store: ObjectStore, prefix: str) -> dict[str, Any]:
    """The commit record of the slice at `prefix`: {"id", "columns", "files", "meta", "samples"}.

    Raises BackdropError when the slice was never committed or its record does not match its id.
    """
    try:
        record = json.loads(store.get(f"{prefix}/{COMMIT}"))
    except ObjectMissing:
        raise BackdropError(
            f"the slice {prefix} in {store.uri} is not complete: it has no {COMMIT}",
            "materialise the asset that writes it again",
        ) from None
    claimed = record.pop("id", None)
    if sha256_bytes(canonical_json(record)) != claimed or claimed != prefix.rsplit("/", 1)[-1]:
        raise BackdropError(
            f"the record of the slice {prefix} in {store.uri} does not match its id",
            "it was changed after it was written: materialise the asset that writes it again",
        )
    return {"id": claimed, **record}


def make_version(store: ObjectStore, slices: Iterable[Slice]) -> DatasetVersion:
    """The dataset version of these slices (order does not matter), recorded at ``datasets/<version>.json``."""
    unique = {piece.id: Slice(piece.id, piece.prefix, piece.samples, piece.split) for piece in slices}
    ordered = tuple(sorted(unique.values(), key=lambda piece: (piece.split, piece.id)))
    listing = [asdict(piece) for piece in ordered]
    version = sha256_bytes(canonical_json(listing))
    key = _version_key(version)
    if not store.exists(key):
        store.put(key, canonical_json({"version": version, "slices": listing}))
    return DatasetVersion(version, ordered, sum(piece.samples for piece in ordered))


def load_version(store: ObjectStore, version: str) -> DatasetVersion:
    """The dataset version as it was recorded. Raises BackdropError when unknown or changed."""
    if not re.fullmatch(r"[0-9a-f]{64}", version):
        raise BackdropError(f"{version!r} is not a dataset version", "give the 64 hexadecimal digits of training_set")
    try:
        record = json.loads(store.get(_version_key(version)))
    except ObjectMissing:
        raise BackdropError(
            f"the dataset version {version} is not in {store.uri}", "materialise training_set"
        ) from None
    if sha256_bytes(canonical_json(record["slices"])) != version:
        raise BackdropError(
            f"the list of the dataset version {version} does not match its hash", "materialise training_set again"
        )
    slices = tuple(Slice(**piece) for piece in record["slices"])
    return DatasetVersion(version, slices, sum(piece.samples for piece in slices))


def _version_key(version: str) -> str:
    return f"datasets/{version}.json"


def local_slice(store: ObjectStore, piece: Slice, cache: Path) -> Path:
    """A local folder with the slice's MDS files: in place for a directory store, else fetched into `cache`.

    Sizes are always checked; a fetched file also by its hash.
    """
    record = load_slice(store, piece.prefix)
    in_place = store.local_path(f"{piece.prefix}/{COMMIT}")
    folder = in_place.parent if in_place is not None else cache / piece.id
    for name, facts in record["files"].items():
        path = folder / name
        if in_place is None and not (path.is_file() and path.stat().st_size == facts["bytes"]):
            store.fetch(f"{piece.prefix}/{name}", path)
            if sha256_file(path) != facts["sha256"]:
                path.unlink()
                raise _damaged(store, piece, name)
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            raise _damaged(store, piece, name)
    return folder


def _damaged(store: ObjectStore, piece: Slice, name: str) -> BackdropError:
    return BackdropError(
        f"{name} of the slice {piece.prefix} in {store.uri} is missing or was changed after it was committed",
        f"delete {piece.prefix}/{COMMIT} and materialise the asset that writes it again",
    )


def read_slices(store: ObjectStore, slices: Iterable[Slice], cache: Path) -> Iterator[dict[str, Any]]:
    """Every sample of the slices, in their order, each exactly once."""
    from infra._compat.streaming import LocalDataset

    for piece in slices:
        if piece.samples == 0:
            continue
        data = LocalDataset(str(local_slice(store, piece, cache)))
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
