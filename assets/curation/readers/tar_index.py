"""Where the members of a tar lie, found in one pass over its headers; memory stays flat, damage is told apart.

Python's `tarfile` keeps every member it has seen and takes a damaged header in the middle for the end of the archive;
only its parser of a single header is used here.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 512
_LONGEST_HEADER = 1 << 20  # bytes of a long name or of pax records
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDED = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


class TarDamage(Exception):
    """Nothing can be read from byte `at` on, and why."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at


def members(stream: BinaryIO) -> Iterator[Member]:
    """The regular files of an uncompressed tar (ustar, GNU or pax), in its order; each is whole.

    The caller may read the member's bytes from `stream`, which stands at their beginning. Archives that were joined
    with `cat` are read to their end. Raises TarDamage where it cannot go on: after the last whole member.
    """
    total = stream.seek(0, os.SEEK_END)
    at, name, size, ended = 0, "", -1, False
    while at < total:
        block = _read(stream, at, _BLOCK)
        if not any(block):
            at, ended = at + _BLOCK, True
            continue
        header = _header(block, at)
        kind, length = header.type, header.size
        begin, ended = at + _BLOCK, False
        if kind in _EXTENDED:
            if length > _LONGEST_HEADER:
                raise TarDamage(at, f"an extended header of {length} bytes")
            data = _read(stream, begin, length)
            if kind == tarfile.GNUTYPE_LONGNAME:
                name = _decoded(data.rstrip(b"\0"))
            elif kind in _PAX:
                records = _pax(data, at)
                name = _decoded(records.get(b"path", b"")) or name
                size = _number(records.get(b"size"), at)
        else:
            if kind == tarfile.GNUTYPE_SPARSE:
                raise TarDamage(at, f"the member {header.name!r} is sparse; pack it without --sparse")
            length = size if size >= 0 else length
            # Links, folders and devices have no bytes, whatever the size says.
            length = length if kind in _FILES or kind not in tarfile.SUPPORTED_TYPES else 0
            if begin + length > total:
                raise TarDamage(at, f"cut short: the member {name or header.name!r} is not whole")
            if kind in _FILES and not (name or header.name).endswith("/"):
                stream.seek(begin)
                yield Member(_tidy(name or header.name), begin, length)
            name, size = "", -1
        at = begin + -(-length // _BLOCK) * _BLOCK
    if not ended:
        raise TarDamage(min(at, total), "cut short: there is no end mark" if total else "the file is empty")


def _read(stream: BinaryIO, at: int, size: int) -> bytes:
    stream.seek(at)
    data = stream.read(size)
    if len(data) < size:
        raise TarDamage(at, "cut short in a header")
    return data


def _header(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        packed = at == 0 and block.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        why = "it is compressed; give it without compression" if packed else f"no tar header ({error})"
        raise TarDamage(at, why) from None
    if header.size < 0:
        raise TarDamage(at, f"a size of {header.size}")
    return header


def _pax(data: bytes, at: int) -> dict[bytes, bytes]:
    """The records `<length> <key>=<value>\\n` of a pax header."""
    records = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        number = _number(length, at)
        record = data[len(length) + 1 : number]
        key, mark, value = record.removesuffix(b"\n").partition(b"=")
        if not mark or not record.endswith(b"\n") or number > len(data):
            raise TarDamage(at, "a damaged pax header")
        records[key] = value
        data = data[number:]
    return records


def _number(text: bytes | None, at: int) -> int:
    if text is None:
        return -1
    if not text.isdigit() or len(text) > 20:
        raise TarDamage(at, f"a damaged pax header (the number {text[:20]!r})")
    return int(text)


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _tidy(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")
