"""mosaicml-streaming's MDSWriter, for a slice: a shard goes from its samples to the disk, hashed on the way.

The stock writer joins the samples twice before it writes, and hashing means to read the file again: for pictures, as
much work as all that the line itself does for a slice.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np


def shard_writer(columns: dict[str, str], folder: Path, shard_bytes: int) -> Any:
    """An MDSWriter into the new folder `folder`; its `written` maps a shard's name to {"bytes", "sha256"}."""
    return _class()(columns=columns, out=str(folder), size_limit=shard_bytes, max_workers=1)


@cache
def _class() -> Any:
    from infra._compat.streaming import writer

    class StraightWriter(writer()):  # type: ignore[misc]
        """Writes the bytes that MDSWriter writes."""

        def __init__(self, **settings: Any) -> None:
            self.written: dict[str, dict[str, Any]] = {}
            super().__init__(**settings)

        def flush_shard(self) -> None:
            name, _ = self._name_next_shard()
            sizes = [len(sample) for sample in self.new_samples]
            start = 4 + 4 * (len(sizes) + 1) + len(self.config_data)
            offsets = start + np.cumsum([0, *sizes])
            head = np.array([len(sizes), *offsets], np.uint32).tobytes() + self.config_data
            digest = sha256()
            with Path(self.local, name).open("wb", buffering=0) as file:
                for piece in (head, *self.new_samples):
                    digest.update(piece)
                    _write(file, piece)
            size = int(offsets[-1])
            self.written[name] = {"bytes": size, "sha256": digest.hexdigest()}
            facts = {"basename": name, "bytes": size, "hashes": {}}
            self.shards.append({"samples": len(sizes), "raw_data": facts, "zip_data": None, **self.get_config()})

    return StraightWriter


def _write(file: Any, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
