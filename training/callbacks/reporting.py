"""Counts steps, clips gradients, and reports losses, speed and progress while a recipe trains."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import torch

from infra.errors import BackdropError
from infra.jobs.program import JobContext
from training._compat.composer import Callback, Logger, State
from training.composer_model import LossModel


class Reporting(Callback):
    """Means over `every` steps go to the job's metrics and into `curve`, rows of {"step", name: value}."""

    def __init__(self, job: JobContext[Any], stage: str, total: int, every: int, clip: float) -> None:
        self.job, self.stage, self.total, self.every, self.clip = job, stage, total, every, clip
        self.curve: list[dict[str, float]] = []
        self.images = 0
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

    def batch_start(self, state: State, logger: Logger) -> None:
        cast(LossModel, state.model).step = int(state.timestamp.batch)

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Gradients are whole and the optimiser has not run yet: the place to stop a broken step."""
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.clip)
        values = {**cast(Mapping[str, torch.Tensor], state.outputs), "gradient_norm": norm}
        for name, value in values.items():
            if name in ("loss", "gradient_norm") and not math.isfinite(value.item()):
                raise BackdropError(
                    f"{self.stage}: {name} became {value.item()} at step {int(state.timestamp.batch)} of {self.total}.",
                    "Lower this stage's learning_rate in the preset and run again; the last good checkpoint is kept.",
                )
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().float()
        self._count += 1

    def batch_end(self, state: State, logger: Logger) -> None:
        step = int(state.timestamp.batch)
        self.images += len(next(iter(state.batch.values())))
        self.job.progress(self.stage, step, self.total, "steps")
        if step % self.every and step != self.total:
            return
        now = time.perf_counter()
        row = {name: (total / self._count).item() for name, total in self._sums.items()}
        row["images_per_second"] = (self.images - self._images_at_mark) / max(now - self._mark, 1e-9)
        row["learning_rate"] = state.optimizers[0].param_groups[0]["lr"]
        self.curve.append({"step": step, **row})
        self.job.metrics(row, step)
        self._sums, self._count, self._mark, self._images_at_mark = {}, 0, now, self.images

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.curve = list(state["curve"])
