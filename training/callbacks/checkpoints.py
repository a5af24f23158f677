"""Saves periodically, and at once when the process is asked to stop."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from infra.errors import BackdropError
from infra.jobs.program import Preempted
from training import ranks
from training._compat.composer import Callback, Logger, State, save_checkpoint
from training.saves import WHOLE, Saves

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Saves every `seconds`, and when the process is asked to stop; then ends it with `Preempted`."""

    def __init__(self, saves: Saves, seconds: float, total: int, device: torch.device) -> None:
        self.saves, self.seconds, self.total, self.device = saves, seconds, total, device
        self.stop = threading.Event()
        self._saved = time.monotonic()

    def fit_start(self, state: State, logger: Logger) -> None:
        self._saved = time.monotonic()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        # After every callback's batch_end, so that averages and curves are those of this step.
        due = time.monotonic() - self._saved >= self.seconds and int(state.timestamp.batch) < self.total
        if not ranks.anyone(self.stop.is_set() or due, self.device):
            return
        self.save(state)
        if ranks.anyone(self.stop.is_set(), self.device):
            log.info("saved at step %d; stopping as asked", int(state.timestamp.batch))
            raise Preempted

    def save(self, state: State) -> None:
        step = int(state.timestamp.batch)
        aside = self.saves.place(step)
        try:
            save_checkpoint(state, str(aside / WHOLE))
            self.saves.commit(step)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise BackdropError(
                f"Cannot write the checkpoint of step {step} to {self.saves.folder}: {error}",
                f"Free some space in {self.saves.folder} and run again; it resumes from the last checkpoint.",
            ) from error
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
