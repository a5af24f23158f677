"""A store that is read through and written aside: for a process whose writes nobody else should see."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

from infra.object_store import DirectoryStore, ObjectMissing, ObjectStore


class OverlayStore:
    """Reads come from what was written here, then from `below`; writes and removals stay in `folder`."""

    def __init__(self, below: ObjectStore, folder: Path) -> None:
        self.uri = below.uri
        self.below = below
        self._own = DirectoryStore(folder)
        self._removed: set[str] = set()

    def put(self, key: str, data: bytes) -> None:
        self._own.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._own.put_file(key, path)

    def take_file(self, key: str, path: Path) -> None:
        self._own.take_file(key, path)

    def get(self, key: str) -> bytes:
        return self._holder(key).get(key)

    def exists(self, key: str) -> bool:
        return self._own.exists(key) or (key not in self._removed and self.below.exists(key))

    def size(self, key: str) -> int:
        return self._holder(key).size(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        last = None
        for key in heapq.merge(self._own.list(prefix, start_after), self.below.list(prefix, start_after)):
            if key != last and (key not in self._removed or self._own.exists(key)):
                yield key
            last = key

    def delete(self, key: str) -> None:
        self._own.delete(key)
        self._removed.add(key)

    def delete_prefix(self, prefix: str) -> None:
        for key in [*self.list(prefix)]:
            self.delete(key)

    def fetch(self, key: str, path: Path) -> None:
        self._holder(key).fetch(key, path)

    def local_path(self, key: str) -> Path | None:
        here = key in self._removed or self._own.exists(key)
        return self._own.local_path(key) if here else self.below.local_path(key)

    def _holder(self, key: str) -> ObjectStore:
        if self._own.exists(key):
            return self._own
        if key in self._removed:
            raise ObjectMissing(f"there is no object '{key}': this process removed it", "materialise it again")
        return self.below
