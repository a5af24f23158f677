"""Cutting a sorted list into slices at places that its items choose, so that one more item changes one slice.

Cut by count, an image that comes or goes early in the list would shift every later slice: all of them would be
scanned, packed and encoded again. Cut by content (Muthitacharoen et al. 2001, "A low-bandwidth network file system"),
the neighbours keep their slices, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], key: Callable[[T], str], size: int) -> Iterator[list[T]]:
    """Lists of `size` items on average, half to twice that many, ended by items whose hashed `key` says so."""
    least, most = max(1, size // 2), 2 * size
    held: list[T] = []
    for item in items:
        held.append(item)
        if len(held) >= most or (len(held) >= least and _ends(key(item), least)):
            yield held
            held = []
    if held:
        yield held


def _ends(key: str, one_in: int) -> bool:
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % one_in == 0
