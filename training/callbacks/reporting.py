"""Counts steps, and reports losses, speed and progress while a recipe trains."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from infra.jobs.program import JobContext
from infra.jobs.ranks import Place
from training import ranks
from training._compat.composer import Callback, Logger, State
from training.composer_model import LossModel, size_of


class Gauge(Protocol):
    """Something that can be read off while a training runs."""

    def read(self, images: int, seconds: float) -> Mapping[str, float]:
        """Numbers over the time since the last reading, in which all ranks learned from so many images."""


class Reporting(Callback):
    """Means over `every` steps and all ranks go to the job's metrics, and into `curve`: rows of {"step", name: value}.

    Metrics carry the step and the stage ("pretrain/loss"). A resumed run reports the steps after its checkpoint anew,
    with the same numbers; who records them keeps the first of each name and step (`infra.tracking`).
    """

    def __init__(
        self,
        job: JobContext[Any],
        model: LossModel,
        stage: str,
        total: int,
        every: int,
        here: Place,
        gauges: Sequence[Gauge] = (),
    ) -> None:
        self.job, self.model, self.stage, self.total, self.every = job, model, stage, total, every
        self.here, self.gauges = here, gauges
        self.curve: list[dict[str, float]] = []
        self.images = 0  # over all ranks, in this life of the process
        self.waited = 0.0  # seconds spent waiting for data
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0
        self._mark = self._asked = time.perf_counter()
        self._images_at_mark = 0

    def fit_start(self, state: State, logger: Logger) -> None:
        self._mark = time.perf_counter()

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self._asked = time.perf_counter()

    def after_dataloader(self, state: State, logger: Logger) -> None:
        self.waited += time.perf_counter() - self._asked

    def batch_end(self, state: State, logger: Logger) -> None:
        step = int(state.timestamp.batch)
        self.images += self.here.ranks * size_of(state.batch)
        for name, value in self.model.measured.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.float()
        self._count += 1
        self.job.progress(self.stage, step, self.total, "steps")
        if step % self.every == 0 or step == self.total:
            self._report(step, state.optimizers[0].param_groups[0]["lr"])

    def _report(self, step: int, learning_rate: float) -> None:
        now = time.perf_counter()
        images, seconds = self.images - self._images_at_mark, max(now - self._mark, 1e-9)
        means = ranks.mean(self._sums)
        row = {name: value.item() / self._count for name, value in means.items()}
        row["learning_rate"] = learning_rate
        row["images_per_second"] = images / seconds
        for gauge in self.gauges:
            row |= gauge.read(images, seconds)
        self.curve.append({"step": step, **row})
        self.job.metrics({f"{self.stage}/{name}": value for name, value in row.items()}, step)
        self._sums, self._count, self._mark, self._images_at_mark = {}, 0, now, self.images

    def state_dict(self) -> dict[str, Any]:
        """With the sums since the last row: where a run was interrupted must not show in its curve."""
        sums = {name: value.item() for name, value in ranks.mean(self._sums).items()}
        return {"rows": json.dumps({"curve": self.curve, "sums": sums, "count": self._count})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows = json.loads(state["rows"])
        self.curve, self._count = rows["curve"], rows["count"]
        self._sums = {name: torch.tensor(value) for name, value in rows["sums"].items()}
