"""A model or an engine: a set of named files with one id, the hash of its manifest.

Files are stored once per content; the manifest is written last, so that a bundle exists whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes, sha256_file
from infra.object_store import ObjectStore


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle: where it lies, and what its bytes must hash to."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Reading a file checks its hash; a changed file is an error, never a surprise."""

    id: str
    kind: str
    meta: dict[str, Any]
    files: dict[str, BundleFile]
    store: ObjectStore

    def read(self, name: str) -> bytes:
        """The file's bytes, verified."""
        file = self._file(name)
        data = self.store.get(file.key)
        if sha256_bytes(data) != file.sha256:
            raise self._changed(name, file)
        return data

    def fetch(self, name: str, folder: Path) -> Path:
        """The file as `folder/name`, verified; one that is already there and whole is not copied again."""
        file = self._file(name)
        path = folder / name
        if not (path.is_file() and path.stat().st_size == file.size and sha256_file(path) == file.sha256):
            self.store.fetch(file.key, path)
            if sha256_file(path) != file.sha256:
                path.unlink()
                raise self._changed(name, file)
        return path

    def _file(self, name: str) -> BundleFile:
        if name not in self.files:
            raise BackdropError(
                f"the {self.kind} {self.id[:12]} has no file '{name}', only {', '.join(sorted(self.files))}"
            )
        return self.files[name]

    def _changed(self, name: str, file: BundleFile) -> BackdropError:
        return BackdropError(
            f"'{name}' of the {self.kind} {self.id[:12]} is not what was written ({self.store.uri}, {file.key})",
            "delete that object and materialise the asset that makes it again",
        )


def write_bundle(
    store: ObjectStore, prefix: str, kind: str, files: Mapping[str, bytes | Path], meta: Mapping[str, Any]
) -> str:
    """Stores the files below `prefix` and the manifest that makes them a bundle; returns the bundle's id.

    The id covers kind, meta and every file's name and bytes, so the same bundle written twice has one id.
    """
    stored: dict[str, dict[str, Any]] = {}
    for name in sorted(files):
        content = files[name]
        if isinstance(content, Path):
            digest, size = sha256_file(content), content.stat().st_size
        else:
            digest, size = sha256_bytes(content), len(content)
        key = f"{prefix.rstrip('/')}/{digest[:16]}/{name}"
        if isinstance(content, Path):
            store.put_file(key, content)
        else:
            store.put(key, content)
        stored[name] = {"key": key, "sha256": digest, "size": size}
    manifest = canonical_json({"kind": kind, "files": stored, "meta": dict(meta)})
    identity = sha256_bytes(manifest)
    store.put(manifest_key(identity), manifest)
    return identity


def open_bundle(store: ObjectStore, identity: str) -> Bundle:
    """The bundle with this id; its manifest is checked now, its files when they are read."""
    raw = store.get(manifest_key(identity))
    if sha256_bytes(raw) != identity:
        raise BackdropError(
            f"the manifest of bundle {identity[:12]} is not what was written ({store.uri})",
            f"delete {manifest_key(identity)} and materialise the asset that makes it again",
        )
    manifest = json.loads(raw)
    files = {name: BundleFile(**entry) for name, entry in manifest["files"].items()}
    return Bundle(identity, manifest["kind"], manifest["meta"], files, store)


def manifest_key(identity: str) -> str:
    """Where the manifest of the bundle with this id lies."""
    return f"manifests/{identity}.json"
