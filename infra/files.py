"""Local files: atomic writes and content hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from infra.errors import BackdropError

# No space, over quota: the same remedy for the reader.
_FULL = {errno.ENOSPC, errno.EDQUOT}

ASIDE_PREFIX = ".writing-"  # a file with this name is not whole: a crash may leave one behind


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turns "no space left on device" below `folder` into a message that names the folder and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise BackdropError(
            f"the disk is full: nothing more can be written to {folder}",
            "free some space there (or point BACKDROP_STATE / BACKDROP_STORE at a larger disk) and run again;"
            " nothing half-written was kept",
        ) from error


def write_atomic(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Writes `data` so that `path` holds what it held before or all of `data`, also after a power cut."""
    encoded = data.encode() if isinstance(data, str) else data
    write_atomic_with(path, lambda file: file.write(encoded), mode)


def write_atomic_with(path: Path, fill: Callable[[BinaryIO], object], mode: int = 0o666) -> None:
    """Like :func:`write_atomic`, with the bytes written by `fill` into an open file beside `path`."""
    with full_disk_named(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.parent / f"{ASIDE_PREFIX}{secrets.token_hex(8)}"
        # With 0666 the umask decides, as for open(); tempfile's 0600 would shut out other users' readers.
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def move_atomic(source: Path, path: Path) -> None:
    """Moves a finished file to `path` for good: durable before it can be seen; copied where it lies on another disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.replace(source, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as file:
            write_atomic_with(path, lambda into: shutil.copyfileobj(file, into, 1 << 20))
        source.unlink()
    else:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """One spelling per value (sorted keys, no spaces, no NaN), so that its hash is an identity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` (made if need be); it is gone when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
