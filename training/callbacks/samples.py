"""Draws the stage's sample grid while it trains, with the averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from infra.jobs.program import JobContext
from infra.jobs.ranks import Place
from training._compat.composer import Callback, Logger, State
from training.ema import Ema


class Samples(Callback):
    """`shows`: ids of the delivered images that can be seen in the grid. `together`: a rank cannot draw alone, because
    each holds a part of the weights."""

    def __init__(
        self,
        job: JobContext[Any],
        stage: str,
        ema: Ema[Any],
        draw: Callable[[Any], bytes],
        every: int,
        shows: Sequence[str],
        here: Place,
        together: bool,
    ) -> None:
        self.job, self.stage, self.ema, self.draw, self.every = job, stage, ema, draw, every
        self.shows, self.here, self.together = shows, here, together

    def batch_end(self, state: State, logger: Logger) -> None:
        step = int(state.timestamp.batch)
        if step % self.every == 0 and (self.together or self.here.rank == 0):
            self.job.picture(f"{self.stage}-samples", self.draw(self.ema.module), step, self.shows)
