"""Saves periodically, and at once when the process is asked to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

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
        self._end_if_asked()

    def save(self, state: State) -> None:
        step = int(state.timestamp.batch)
        aside = self.saves.place(step)
        # What it raises is left as it is: a collective's error looks like a full disk's, which the job recognises.
        try:
            save_checkpoint(state, str(aside / WHOLE))
        except AssertionError as error:
            # At its end Composer looks on every node for the index of the parts, which only rank 0 writes.
            if self.saves.here.node == 0 or "Expected file to have been saved" not in str(error):
                raise
        self.saves.commit(step)
        self._saved = time.monotonic()

    @contextmanager
    def saving_on_sigterm(self) -> Iterator[None]:
        """While inside, SIGTERM asks for a checkpoint at the end of the step instead of ending the process. One that
        comes too late for that, during the last save, ends it with `Preempted` afterwards.
        """

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
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        if ranks.anyone(self.stop.is_set(), self.device):
            log.info("saved; stopping as asked")
            raise Preempted
