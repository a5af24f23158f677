from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from infra.errors import BackdropError
from infra.files import canonical_json, locked, sha256_bytes, sha256_file, write_atomic, write_atomic_with


def test_write_atomic_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["b.txt"]


def test_the_umask_decides_the_mode_unless_told(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "open", b"")
        write_atomic(tmp_path / "secret", b"", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_atomic(path, b"whole")

    def half(file: object) -> None:
        file.write(b"ha")  # type: ignore[attr-defined]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomic_with(path, half)
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_names_the_folder(tmp_path: Path) -> None:
    def fill(_file: object) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(BackdropError, match=f"disk is full.*{tmp_path}"):
        write_atomic_with(tmp_path / "file", fill)
    assert os.listdir(tmp_path) == []


def test_other_errors_are_not_called_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked below
        write_atomic(tmp_path / "file", b"x")
    assert caught.value.errno == errno.EISDIR


def test_hashes_and_canonical_json(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == sha256_bytes(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))


def test_locked_excludes_other_holders(tmp_path: Path) -> None:
    import fcntl

    with locked(tmp_path / "lock"), (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(tmp_path / "lock"):
        pass
