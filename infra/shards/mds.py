"""One MDS shard file, opened: samples by their place, and nothing left behind, however the process ends.

No lock file, no shared memory, no worker: an open file and its table of offsets. The format is mosaicml-streaming's:
uint32 count, uint32 offsets[count + 1], the columns as JSON, then the samples; in a sample the uint32 sizes of the
columns without a fixed one, then the columns' bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Decode = Callable[[memoryview], Any]


class ShardFile:
    """The samples of one shard; `shard` is its entry in the index. Raises OSError and ValueError for a damaged file."""

    def __init__(self, path: Path, shard: Mapping[str, Any]) -> None:
        if shard["format"] != "mds" or shard["version"] != 2 or shard["compression"]:
            raise ValueError(f"{path} is no uncompressed MDS shard of version 2")
        self.path = path
        self._columns = [
            (name, size, decoder(encoding))
            for name, encoding, size in zip(
                shard["column_names"], shard["column_encodings"], shard["column_sizes"], strict=True
            )
        ]
        self._head = 4 * sum(not size for _, size, _ in self._columns)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        table = os.pread(self._file, 4 * (shard["samples"] + 2), 0)
        count, *offsets = np.frombuffer(table, "<u4").tolist()
        if count != shard["samples"] or len(offsets) != count + 1:
            raise ValueError(f"{path} holds {count} samples, its index says {shard['samples']}")
        self._offsets = offsets

    def __del__(self) -> None:
        # Not by name: another thread may be reading while the shard is dropped from the list of open ones.
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def sample(self, place: int, columns: Collection[str] | None = None) -> dict[str, Any]:
        """The columns of one sample, all unless some are named: then no others are read. Arrays are read-only."""
        begin, end = self._offsets[place], self._offsets[place + 1]
        whole = self._read(begin, end) if columns is None else None

        def part(first: int, last: int) -> memoryview:
            return self._read(first, last) if whole is None else whole[first - begin : last - begin]

        at = begin + self._head
        sizes = iter(np.frombuffer(part(begin, at), "<u4").tolist())
        found = {}
        for name, fixed, decode in self._columns:
            first, at = at, at + (fixed or next(sizes))
            if columns is None or name in columns:
                found[name] = decode(part(first, at))
        return found

    def _read(self, begin: int, end: int) -> memoryview:
        data = memoryview(os.pread(self._file, end - begin, begin))
        if len(data) != end - begin:
            raise ValueError(f"{self.path} is cut short: it ends before byte {end}")
        return data


def decoder(encoding: str) -> Decode:
    """bytes → value for an MDS encoding; those that the line does not write are left to mosaicml-streaming."""
    kind, *details = encoding.split(":")
    if kind == "ndarray" and len(details) == 2:
        shape = tuple(int(side) for side in details[1].split(","))
        return partial(_array, dtype=np.dtype(details[0]), shape=shape, count=math.prod(shape))
    return _PLAIN.get(encoding) or partial(_others, encoding=encoding)


def _array(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], count: int) -> np.ndarray:
    return np.frombuffer(data, dtype, count).reshape(shape)


def _others(data: memoryview, encoding: str) -> Any:
    from infra._compat.streaming import load

    load()
    from streaming.base.format.mds.encodings import is_mds_encoding_safe, mds_decode

    if not is_mds_encoding_safe(encoding):
        raise ValueError(f"a column of encoding {encoding!r} may run code when it is read")
    return mds_decode(encoding, bytes(data))


_PLAIN: dict[str, Decode] = {
    "bytes": bytes,
    "str": lambda data: str(data, "utf-8"),
    "json": lambda data: json.loads(bytes(data)),
    "int": lambda data: int.from_bytes(data, "little", signed=True),
}
