"""Bytes and listings behind any URI: a plain path, `file://` (percent-encoded), `s3://` (raw), a member of a tar."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from infra.errors import BackdropError
from infra.walk import walk

# A '#' in a file:// URI's path is written %23, so this cannot be part of a name there.
_MEMBER = re.compile(r"(?P<tar>(?:file|s3)://.+\.tar)#(?P<offset>\d+)\+(?P<size>\d+)", re.IGNORECASE | re.DOTALL)


class ObjectMissing(BackdropError):
    """There is no object under this key."""


def path_of(uri: str) -> Path:
    """The local path behind a plain path or a (percent-encoded) `file://` URI."""
    if uri.startswith("file://"):
        encoded = uri.removeprefix("file://")
        if not encoded.startswith("/"):
            raise BackdropError(
                f"'{uri}' names a host or a relative folder", "write file:///absolute/folder or a plain path"
            )
        return Path(os.fsdecode(unquote_to_bytes(encoded)))
    if "://" in uri:
        scheme = uri.split("://", 1)[0]
        raise BackdropError(
            f"'{uri}' has the scheme '{scheme}://', which is not known here", "use a folder, file:// or s3://"
        )
    return Path(uri).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Listed:
    """One file or object as its listing shows it; nothing of it was read."""

    name: str  # relative to the folder that was listed; for a single file its own name
    uri: str
    size: int | None  # bytes; None where a link leads nowhere
    etag: str  # changes when the bytes change: "size-mtime_ns" of a file, the ETag of an S3 object


def member_uri(tar: str, offset: int, size: int) -> str:
    """The URI of `size` bytes of the tar `tar` (a file:// or s3:// URI ending in .tar) from byte `offset` on."""
    return f"{tar}#{offset}+{size}"


def parse_member(uri: str) -> tuple[str, int, int] | None:
    """What `member_uri` made of a tar, an offset and a size; None for the URI of a whole object."""
    found = _MEMBER.fullmatch(uri)
    return (found["tar"], int(found["offset"]), int(found["size"])) if found else None


def read_uri(uri: str) -> bytes:
    """The bytes behind a plain path, a `file://` or `s3://` URI, or a tar's member (`…/a.tar#<offset>+<size>`).

    A member is one ranged read; the tar is not opened. Raises :class:`ObjectMissing` or :class:`BackdropError`.
    """
    member = parse_member(uri)
    if member is None:
        return _read(uri, 0, None)
    data = _read(*member)
    if len(data) < member[2]:
        raise BackdropError(f"{uri} ends after {len(data)} bytes", "the tar was changed or cut short: ingest it again")
    return data


def read_head(uri: str, size: int) -> bytes:
    """The first `size` bytes behind a URI; fewer where there are no more."""
    return _read(uri, 0, size)


def _read(uri: str, offset: int, size: int | None) -> bytes:
    if uri.startswith("s3://"):
        from infra.s3 import read_s3

        return read_s3(uri, offset, size)
    path = path_of(uri)
    with _explained(path), path.open("rb", buffering=0) as file:
        return file.read() if size is None else os.pread(file.fileno(), size, offset)


def open_uri(uri: str) -> BinaryIO:
    """A seekable stream of the bytes behind a URI; an S3 object is read in one pass, and again from where one seeks.

    Raises :class:`ObjectMissing` or :class:`BackdropError`.
    """
    if uri.startswith("s3://"):
        from infra.s3_file import S3File

        return io.BufferedReader(S3File(uri), 1 << 18)
    path = path_of(uri)
    with _explained(path):
        return path.open("rb")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissing(f"there is no file {path}", "check the path; it may have been moved or deleted") from None
    except OSError as error:
        raise BackdropError(f"{path} cannot be read: {error.strerror}", "check the file and its permissions") from error


def list_uri(uri: str) -> Iterator[str]:
    """URIs (`file://…` percent-encoded, or `s3://…`) of the file or of the files below a folder, sorted, streamed.

    Raises :class:`BackdropError` when a local folder does not exist or may not be read.
    """
    return (found.uri for found in list_objects(uri))


def list_objects(uri: str) -> Iterator[Listed]:
    """Like `list_uri`, with names, sizes and ETags. Pipes, sockets and devices are left out: reading one may hang."""
    if uri.startswith("s3://"):
        from infra.s3 import list_s3

        yield from list_s3(uri)
        return
    path = path_of(uri)
    try:
        if path.is_dir():
            folder = str(path)
            for name in walk(folder):
                yield from _listed(name, f"{folder}/{name}")
        elif path.is_file():
            yield from _listed(path.name, str(path))
        else:
            raise BackdropError(f"there is no folder or file {path}", "check the path: a folder or an s3:// prefix")
    except PermissionError as error:
        raise BackdropError(f"{error.filename} may not be read", "give this user read access to the folder") from error


def _listed(name: str, path: str) -> Iterator[Listed]:
    uri = file_uri(path)
    try:
        found = os.stat(path)
    except OSError:  # a link that leads nowhere: whoever reads it learns why
        yield Listed(name, uri, None, "")
        return
    if stat.S_ISREG(found.st_mode):
        yield Listed(name, uri, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


def file_uri(path: str) -> str:
    """The percent-encoded URI of an absolute path, whatever bytes its name is made of."""
    return "file://" + quote_from_bytes(os.fsencode(path))
