"""Periodic checkpoints that a resume can trust: each has a SHA-256 beside it, written after it.

Composer 0.32.1 unpickles without a guard, so nothing is loaded that this program did not write whole: no autoresume,
but the newest checkpoint whose hash matches, given as a local path.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from infra.errors import BackdropError
from infra.files import sha256_file, write_atomic
from infra.jobs.program import Preempted
from training._compat.composer import Callback, Logger, State, save_checkpoint

log = logging.getLogger(__name__)

KEPT = 2


class Checkpoints(Callback):
    """Saves every `seconds`, and at once when the process is asked to stop; then ends it with `Preempted`."""

    def __init__(self, folder: Path, seconds: float, total: int) -> None:
        self.folder, self.seconds, self.total = folder, seconds, total
        self.stop = threading.Event()
        self._saved = time.monotonic()

    def fit_start(self, state: State, logger: Logger) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._saved = time.monotonic()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        # After every callback's batch_end, so that averages and curves are those of this step.
        stopping = self.stop.is_set()
        due = time.monotonic() - self._saved >= self.seconds and int(state.timestamp.batch) < self.total
        if stopping or due:
            self.save(state)
        if stopping:
            log.info("saved at step %d; stopping as asked", int(state.timestamp.batch))
            raise Preempted

    def save(self, state: State) -> None:
        step = int(state.timestamp.batch)
        aside = self.folder / f"step-{step:08d}.partial"
        try:
            save_checkpoint(state, str(aside))
        except (OSError, RuntimeError) as error:
            aside.unlink(missing_ok=True)
            raise BackdropError(
                f"Cannot write the checkpoint of step {step} to {self.folder}: {error}",
                f"Free some space in {self.folder} and run again; it resumes from the last checkpoint.",
            ) from error
        path = aside.with_suffix(".pt")
        digest = sha256_file(aside)
        aside.rename(path)
        write_atomic(sidecar(path), digest)
        for old in _newest_first(self.folder)[KEPT:]:
            sidecar(old).unlink(missing_ok=True)
            old.unlink()
        self._saved = time.monotonic()

    @contextmanager
    def saving_on_sigterm(self) -> Iterator[None]:
        """While inside, SIGTERM asks for a checkpoint at the end of the step instead of ending the process."""

        def ask(signum: int, frame: FrameType | None) -> None:
            self.stop.set()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def sidecar(path: Path) -> Path:
    return path.with_suffix(".sha256")


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose hash matches its sidecar. One that does not is named in the log and passed over."""
    for path in _newest_first(folder):
        beside = sidecar(path)
        if beside.is_file() and beside.read_text().strip() == sha256_file(path):
            return path
        log.warning("%s is cut short or was changed (its SHA-256 does not match %s): passed over", path, beside.name)
    return None


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d{8}", path.stem)]
    return sorted(found, reverse=True)
