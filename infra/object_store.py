"""The object store: a folder on a laptop, a bucket in production, behind one small interface.

Keys are relative paths with forward slashes. A write is atomic: a reader sees the old object or the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from infra.errors import BackdropError
from infra.files import move_atomic, write_atomic, write_atomic_with
from infra.uris import ObjectMissing, list_uri, path_of, read_uri
from infra.walk import walk

__all__ = ["DirectoryStore", "ObjectMissing", "ObjectStore", "list_uri", "open_store", "path_of", "read_uri"]


class ObjectStore(Protocol):
    """What every room may ask of the store, and nothing else."""

    uri: str

    def put(self, key: str, data: bytes) -> None:
        """Stores bytes under a key, replacing what was there."""

    def put_file(self, key: str, path: Path) -> None:
        """Stores a local file's bytes under a key without holding them in memory."""

    def take_file(self, key: str, path: Path) -> None:
        """Like `put_file`, and the local file is gone afterwards: moved where that is possible."""

    def get(self, key: str) -> bytes:
        """The object's bytes; :class:`ObjectMissing` when there is none."""

    def exists(self, key: str) -> bool:
        """Whether there is an object under exactly this key."""

    def size(self, key: str) -> int:
        """The object's size in bytes; :class:`ObjectMissing` when there is none."""

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        """Keys that begin with `prefix` and sort after `start_after`, sorted, recursively, streamed."""

    def delete(self, key: str) -> None:
        """Removes an object; it is no error when there is none."""

    def delete_prefix(self, prefix: str) -> None:
        """Removes every object whose key begins with `prefix`."""

    def fetch(self, key: str, path: Path) -> None:
        """Copies an object to a local file, atomically."""

    def local_path(self, key: str) -> Path | None:
        """Where the object lies (or would lie) on this machine's disk; None for a remote store."""


def open_store(uri: str) -> ObjectStore:
    """The store behind `file:///folder`, a plain folder, or `s3://bucket/prefix`."""
    if uri.startswith("s3://"):
        from infra.s3 import S3Store

        return S3Store(uri)
    return DirectoryStore(path_of(uri))


class DirectoryStore:
    """Objects as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.uri = self.folder.as_uri()

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or any(part in ("", ".", "..") for part in parts) or "\0" in key:
            raise BackdropError(f"'{key}' is not a key of the object store {self.uri}", "use 'folder/name'")
        return self.folder.joinpath(*parts)

    def _missing(self, key: str) -> ObjectMissing:
        return ObjectMissing(
            f"there is no object '{key}' in {self.uri}",
            "materialise the asset that makes it, or check BACKDROP_STORE",
        )

    def put(self, key: str, data: bytes) -> None:
        write_atomic(self._path(key), data)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            write_atomic_with(self._path(key), lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def take_file(self, key: str, path: Path) -> None:
        move_atomic(path, self._path(key))

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise self._missing(key) from None

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        path = self._path(key)
        if not path.is_file():
            raise self._missing(key)
        return path.stat().st_size

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        parent = prefix.rpartition("/")[0]  # the deepest folder that all the keys share
        below, after = f"{parent}/" if parent else "", os.fsencode(start_after)
        for name in walk(str(self._path(parent) if parent else self.folder)):
            key = below + name
            if key.startswith(prefix) and os.fsencode(key) > after:
                yield key

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        for key in list(self.list(prefix)):
            self.delete(key)
        folder = self.folder / prefix
        if prefix.endswith("/") and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)  # the folders that are empty now

    def fetch(self, key: str, path: Path) -> None:
        try:
            source = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise self._missing(key) from None
        with source:
            write_atomic_with(path, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def local_path(self, key: str) -> Path | None:
        return self._path(key)
