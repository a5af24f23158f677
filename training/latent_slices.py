"""Which latent slice belongs to which slice of pictures, and how it follows when samples are taken out of that.

latents/<key>.json      {"slice": …, "parts": …}, written last; <key> is the hash of the parts
latents/<key>/<id>/…    the slice itself; its meta names the source as the parts do
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.files import canonical_json, sha256_bytes
from infra.object_store import ObjectStore
from infra.shards import Slice, rewrite_slice

ROOT = "latents/"
EXAMPLES = f"{ROOT}examples-"
"""Prefix of the .npz files that hold a few pictures of a dataset version, from which sample grids are drawn."""


@dataclass(frozen=True)
class LatentSlice:
    """A latent slice, what it depends on ("source" among it), and the key prefix that follows from that."""

    key: str
    parts: Mapping[str, Any]
    piece: Slice

    @property
    def source(self) -> str:
        """The id of the slice of pictures that was encoded."""
        return str(self.parts["source"])


def latent_key(parts: Mapping[str, Any]) -> str:
    """Where latents that depend on `parts` lie: a key prefix without a trailing slash."""
    return f"{ROOT}{sha256_bytes(canonical_json(dict(parts)))}"


def latent_meta(split: str, source: str, bucket: str) -> dict[str, str]:
    """The meta of a latent slice; "" is no bucket."""
    return {"split": split, "source": source} | ({"bucket": bucket} if bucket else {})


def record_latents(store: ObjectStore, parts: Mapping[str, Any], piece: Slice) -> LatentSlice:
    """Makes a committed latent slice findable."""
    key = latent_key(parts)
    store.put(f"{key}.json", canonical_json({"slice": asdict(piece), "parts": dict(parts)}))
    return LatentSlice(key, dict(parts), piece)


def find_latents(store: ObjectStore, parts: Mapping[str, Any]) -> LatentSlice | None:
    """The latents that depend on `parts`, if they are there."""
    key = latent_key(parts)
    return _read(store, key) if store.exists(f"{key}.json") else None


def recorded_latents(store: ObjectStore) -> Iterator[LatentSlice]:
    """All latents that are there."""
    for key in store.list(ROOT):
        if key.endswith(".json") and key.count("/") == 1:
            yield _read(store, key.removesuffix(".json"))


def latents_of(store: ObjectStore, sources: Set[str]) -> list[LatentSlice]:
    """The latents of these slices of pictures, whatever autoencoder made them."""
    return [latents for latents in recorded_latents(store) if latents.source in sources]


def examples_of(store: ObjectStore, image_ids: Set[str]) -> list[str]:
    """Keys of the files of examples that hold one of these images."""
    keys = [key for key in store.list(EXAMPLES) if key.endswith(".npz")]
    return [key for key in keys if not image_ids.isdisjoint(example_ids(store, key))]


def rewrite_latents(
    store: ObjectStore, old: LatentSlice, source: str, without: Set[str], scratch: Path | None = None
) -> LatentSlice | None:
    """The latents without some samples, recorded as those of the slice `source` that replaced theirs: what is left is
    not encoded again. None when nothing is left."""
    parts = {**old.parts, "source": source}
    meta = latent_meta(old.piece.split, source, old.piece.bucket)
    piece = rewrite_slice(store, old.piece, without, root=latent_key(parts), meta=meta, scratch=scratch)
    return record_latents(store, parts, piece) if piece is not None else None


def example_ids(store: ObjectStore, key: str) -> list[str]:
    """Ids of the images in a file of examples."""
    import io

    import numpy as np

    with np.load(io.BytesIO(store.get(key)), allow_pickle=False) as arrays:
        return [str(image_id) for image_id in arrays["ids"]]


def _read(store: ObjectStore, key: str) -> LatentSlice:
    record = json.loads(store.get(f"{key}.json"))
    return LatentSlice(key, record["parts"], Slice(**record["slice"]))
