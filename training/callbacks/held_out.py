"""Measures the averaged weights on held-out samples while a recipe trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from infra.jobs.program import JobContext
from training._compat.composer import Callback, Logger, State
from training.ema import Ema

HeldOut = Callable[[Any], Mapping[str, float]]
"""held_out(model) → numbers by name, the same on every rank; without gradients and without side effects."""


class HeldOutLoss(Callback):
    """Reports `measure(averaged model)` every so many steps, as metrics of the stage."""

    def __init__(self, job: JobContext[Any], stage: str, ema: Ema[Any], measure: HeldOut, every: int) -> None:
        self.job, self.stage, self.ema, self.measure, self.every = job, stage, ema, measure, every

    def batch_end(self, state: State, logger: Logger) -> None:
        step = int(state.timestamp.batch)
        if step % self.every == 0:
            found = self.measure(self.ema.module)
            self.job.metrics({f"{self.stage}/held out/{name}": value for name, value in found.items()}, step)
