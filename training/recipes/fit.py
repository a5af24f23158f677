"""The one way a recipe trains: Composer's loop around a pure loss, with EMA, reports and checkpoints."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.files import sha256_bytes
from infra.jobs.program import JobContext
from infra.sources import source_hash
from training import precision
from training._compat.composer import State, Trainer
from training.callbacks.averaging import Averaging
from training.callbacks.checkpoints import Checkpoints, newest
from training.callbacks.reporting import Reporting
from training.callbacks.samples import Samples
from training.composer_model import Loss, LossModel
from training.ema import Ema
from training.presets.sections import OptimiserSection

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # below the job's folder


@dataclass(frozen=True)
class Draw:
    """draw(model) → PNG of a sample grid; `shows` are the ids of the delivered images that can be seen in it."""

    grid: Callable[[Any], bytes]
    shows: Sequence[str] = ()

    def __call__(self, model: Any) -> bytes:
        return self.grid(model)


@dataclass
class Fit:
    """What came of a training run: its curve and numbers for people. The model is `ema.module`."""

    curve: list[dict[str, float]]
    metadata: dict[str, Any]


def fit(
    job: JobContext[Any],
    stage: str,
    ema: Ema[Any],
    loss: Loss,
    loader: Any,
    section: OptimiserSection,
    seed: int,
    draw: Draw | None = None,
) -> Fit:
    """Train `ema.model` for `section.steps` batches of `loader`, resuming from the job's folder.

    Raises BackdropError when the loss stops being finite or the disk is full, Preempted after saving when asked to
    stop.
    """
    begun = time.perf_counter()
    _single_process()
    reporting = Reporting(job, stage, section.steps, section.log_every, section.clip)
    checkpoints = Checkpoints(_folder(job, stage, loss), section.save_seconds, section.steps)
    callbacks: list[Any] = [reporting, Averaging(ema), checkpoints]
    if draw is not None and section.sample_every:
        callbacks.append(Samples(job, stage, ema, draw, section.sample_every, draw.shows))
    resumed = newest(checkpoints.folder)
    trained = [parameter for parameter in ema.model.parameters() if parameter.requires_grad]
    trainer = Trainer(
        model=LossModel(ema.model, loss, seed),
        train_dataloader=loader,
        max_duration=f"{section.steps}ba",
        optimizers=torch.optim.AdamW(
            trained, lr=section.learning_rate, weight_decay=section.weight_decay, betas=(0.9, 0.95), fused=True
        ),
        schedulers=schedule(section),
        step_schedulers_every_batch=True,
        callbacks=callbacks,
        load_path=None if resumed is None else str(resumed),
        device="cpu",
        precision="fp32",
        seed=seed,
        run_name=stage,
        progress_bar=False,
        log_to_console=False,
        loggers=[],
    )
    start = int(trainer.state.timestamp.batch)
    if resumed is not None:
        log.info("%s: resuming at step %d of %d from %s", stage, start, section.steps, resumed.name)
    with checkpoints.saving_on_sigterm():
        if start < section.steps:
            trainer.fit()
            checkpoints.save(trainer.state)  # a stage that is done stays done while the recipe's next one trains
        trainer.close()
    seconds = time.perf_counter() - begun
    last = reporting.curve[-1] if reporting.curve else {}
    return Fit(
        reporting.curve,
        {
            "steps": section.steps,
            "resumed_at_step": start,
            "seconds": round(seconds, 1),
            "images_per_second": round(reporting.images / max(seconds, 1e-9), 1),
            "data_wait_share": round(reporting.waited / max(seconds, 1e-9), 4),
            "final_loss": last.get("loss", float("nan")),
            "parameters": sum(parameter.numel() for parameter in ema.model.parameters()),
            "trained_parameters": sum(parameter.numel() for parameter in trained),
            "precision": precision.name(precision.fast_dtype()),
        },
    )


def forget_checkpoints(job: JobContext[Any]) -> None:
    """What a finished recipe does last: its model is in the store."""
    shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)


def _folder(job: JobContext[Any], stage: str, loss: Loss) -> Path:
    """Where a stage's checkpoints lie: another spec or another program never resumes them."""
    program = source_hash(loss.__module__)
    digest = sha256_bytes(job.spec.model_dump_json().encode() + program.encode())
    return job.folder / CHECKPOINTS / f"{stage}-{digest[:12]}"


def schedule(section: OptimiserSection) -> Callable[..., float]:
    """Linear warm-up, then cosine to `final_learning_rate`: a function of the step alone, as Composer wants it."""

    def multiplier(state: State, ssr: float = 1.0) -> float:
        return rate(int(state.timestamp.batch), section)

    return multiplier


def rate(step: int, section: OptimiserSection) -> float:
    """The share of the peak learning rate at `step`."""
    warm = min(1.0, (step + 1) / (section.warmup + 1))
    floor = section.final_learning_rate
    return warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / section.steps))))


def _single_process() -> None:
    """What Composer and Streaming read of their place among the ranks: there is one. Their chatter stays out."""
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"}
    for name, value in place.items():
        os.environ.setdefault(name, value)
    for name in ("composer", "streaming"):
        logging.getLogger(name).setLevel(logging.WARNING)
