"""A job's local folder: its lock, its log, its exit, and the save folder where its checkpoints live.

<state>/jobs/<key>/handle.json   what was launched (the launcher's)
                  lock           held by the job while it lives; says who holds it
                  log.txt        everything the job printed
                  exit.json      how it ended
                  save/          the job's own, survives kill -9
                  tmp/           the job's TMPDIR, gone when it ends
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from infra.errors import BackdropError
from infra.files import write_atomic
from infra.jobs.process import ProcessId

BROKEN_BATCH = "not-finite-"
"""In ``save/``, the beginning of the names of files that hold a batch on which a step was not finite."""
# An AF_UNIX address holds 107 bytes, and multiprocessing puts up to 40 after TMPDIR for its sockets.
LONGEST_TMPDIR = 60
# Below this a disk is as good as full: what failed on it failed for that.
FULL_BELOW_BYTES = 1 << 20


class Exit(BaseModel):
    """How a job ended, in its own words. ``launch`` tells one launch's exit from another's."""

    launch: str
    code: int
    what: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class JobFolder:
    """The paths of one job, below ``path``."""

    path: Path

    @property
    def handle(self) -> Path:
        return self.path / "handle.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def save(self) -> Path:
        return self.path / "save"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def exit_file(self) -> Path:
        return self.path / "exit.json"

    def read_exit(self, launch: str) -> Exit | None:
        """How this very launch ended; None while it runs, and when it was killed before it could say."""
        try:
            found = Exit.model_validate_json(self.exit_file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return found if found.launch == launch else None

    def write_exit(self, exit: Exit) -> None:
        write_atomic(self.exit_file, exit.model_dump_json())

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the job's log."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 64_000))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def is_full(self) -> bool:
        """Whether the disk that the folder lies on has no room left."""
        try:
            return shutil.disk_usage(self.path).free < FULL_BELOW_BYTES
        except OSError:
            return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; BackdropError naming the holder's pid when another job has it.

        The lock is the kernel's: it is gone when the process is, however it ended. A forked worker lets go of
        its copy, so that one that outlives the job does not hold the folder.
        """
        descriptor = _open_locked(self.lock_file, self.path)
        held = [descriptor]
        os.register_at_fork(after_in_child=lambda: _close_all(held))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, ProcessId.of_this_process().model_dump_json().encode(), 0)
        try:
            yield
        finally:
            held.clear()
            os.ftruncate(descriptor, 0)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def check_free(self) -> None:
        """BackdropError naming its pid when a job holds the folder."""
        os.close(_open_locked(self.lock_file, self.path))

    def clear(self, keep_save: bool) -> None:
        """Makes the folder ready for a new launch; the last one's log is kept beside as log.previous.txt."""
        self.exit_file.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.log.replace(self.path / "log.previous.txt")
        if not keep_save:
            shutil.rmtree(self.save, ignore_errors=True)

    @contextlib.contextmanager
    def private_tmp(self) -> Iterator[Path]:
        """Makes ``tmp/`` this process's TMPDIR, empty, and removes it at the end.

        Where its path is too long for a socket, TMPDIR is a short link to it.
        """
        folder = self.path / "tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        before = os.environ.get("TMPDIR")
        link = _short_link(folder) if len(os.fsencode(folder)) > LONGEST_TMPDIR else None
        os.environ["TMPDIR"] = str(link or folder)
        tempfile.tempdir = None
        try:
            yield folder
        finally:
            if before is None:
                os.environ.pop("TMPDIR", None)
            else:
                os.environ["TMPDIR"] = before
            tempfile.tempdir = None
            shutil.rmtree(folder, ignore_errors=True)
            if link is not None:
                link.unlink(missing_ok=True)


def job_folder(state: Path, key: str) -> JobFolder:
    """The folder of the job ``key`` below the state folder."""
    return JobFolder(state.absolute() / "jobs" / safe_key(key))


def safe_key(key: str) -> str:
    """``key`` as one path part of plain characters; a short hash keeps two keys apart that would look the
    same.
    """
    plain = re.sub(r"[^A-Za-z0-9_.=-]+", "-", key).strip(".-")[:80]
    if plain == key:
        return key
    return f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _open_locked(path: Path, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held = os.pread(descriptor, 4096, 0)
        os.close(descriptor)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        try:
            holder = f"process {json.loads(held)['pid']}"
        except (ValueError, KeyError):
            holder = "another process"
        raise BackdropError(
            f"{holder} is running a job in {folder}",
            "wait for it to finish, or stop it (kill -TERM lets it save first)",
        ) from None
    return descriptor


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _short_link(folder: Path) -> Path | None:
    """A link to ``folder`` with a short path; the same one every time, so that a killed job leaves at most
    one.
    """
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    link = Path("/tmp") / f"backdrop-{os.getuid()}-{digest}"
    try:
        if link.is_symlink() and link.lstat().st_uid == os.getuid():
            link.unlink()
        link.symlink_to(folder, target_is_directory=True)
    except OSError:
        return None
    return link
