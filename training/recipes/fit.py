"""The one way a recipe trains: Composer's loop around a pure loss, with EMA, reports and checkpoints.

Composer never resumes by itself (`training.saves` finds and verifies what it is given), orders no data (`training.feed`
hands it the plan's batches from the step on) and draws no number (`training.draws`). So a run that was interrupted goes
on with the samples, losses and weights that it would have had, on other ranks if need be.
"""

from __future__ import annotations

import copy
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.files import canonical_json, sha256_bytes
from infra.jobs.folder import JobFolder
from infra.jobs.program import JobContext
from infra.jobs.ranks import Place, place
from infra.jobs.spec import JOULES
from infra.settings import Settings
from infra.sources import source_hash
from training import optimisers, precision, ranks, sharding
from training._compat.composer import State, Trainer
from training.callbacks.averaging import Averaging
from training.callbacks.checkpoints import Checkpoints
from training.callbacks.gradients import Gradients
from training.callbacks.held_out import HeldOut, HeldOutLoss
from training.callbacks.reporting import Gauge, Reporting
from training.callbacks.samples import Samples
from training.composer_model import Loss, LossModel
from training.ema import Ema
from training.feed import Batches, Loader
from training.gauges.power import Power
from training.gauges.utilisation import Utilisation
from training.presets.sections import OptimiserSection, without_operation
from training.saves import CatalogRecord, Saves, formats_of, loadable, step_of

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # below the job's folder, and below its output in the store


@dataclass(frozen=True)
class Draw:
    """draw(model) → PNG of a sample grid; `shows` are the ids of the delivered images that can be seen in it."""

    grid: Callable[[Any], bytes]
    shows: Sequence[str] = ()

    def __call__(self, model: Any) -> bytes:
        return self.grid(model)


@dataclass
class Fit:
    """What came of a training run: its curve and numbers for people. The model is `ema.module`, on the CPU."""

    curve: list[dict[str, float]]
    metadata: dict[str, Any]


def fit(
    job: JobContext[Any],
    stage: str,
    ema: Ema[Any],
    loss: Loss,
    loader: Loader,
    section: OptimiserSection,
    seed: int,
    draw: Draw | None = None,
    held_out: HeldOut | None = None,
) -> Fit:
    """Train `ema.model` for `section.steps` global batches of `loader`, resuming from the job's checkpoints.

    Raises BackdropError when the loss stops being finite, another process trains in the same folder or the device is
    not there; Preempted after saving when asked to stop.
    """
    begun = time.perf_counter()
    device = precision.device_named(section.device)
    here = ranks.join(device)
    share = ranks.share_of(loader.batch_size, here)
    with ExitStack() as closing:
        saves = _saves(job, stage, loss, section, here, closing)
        found = saves.newest()
        start = 0 if found is None else step_of(found)
        saves.formats = _settled(found, device, here)
        if found is not None:
            log.info("%s: resuming at step %d of %d from %s", stage, start, section.steps, found)
        batches = Batches(loader.at(start, here.rank, here.ranks))
        closing.callback(batches.loader.close)

        spread = section.sharding != "ddp"
        plain = copy.deepcopy(ema.module) if spread else ema.module  # what the recipe gets back
        ema.model.to(device)
        ema.module.to(device)
        gauges = _gauges(ema.model, loss, batches, here, device) if start < section.steps else []
        if section.compile:
            ema.model.compile()
        whole = section.checkpoints == "whole"
        scale = sharding.loss_scale(device) if spread and here.ranks > 1 else 1.0
        model = LossModel(ema.model, loss, seed, scale)
        reporting = Reporting(job, model, stage, section.steps, section.log_every, here, gauges)
        checkpoints = Checkpoints(saves, section.save_seconds, section.steps, device)
        callbacks: list[Any] = [
            Gradients(model, stage, section.steps, section.clip, job.folder, here, batches.loader.ids),
            reporting,
            Averaging(ema, section.steps, whole),
            checkpoints,
        ]
        if draw is not None and section.sample_every:
            callbacks.append(Samples(job, stage, ema, draw, section.sample_every, draw.shows, here, together=spread))
        if held_out is not None and section.held_out_every:
            callbacks.append(HeldOutLoss(job, stage, ema, held_out, section.held_out_every))
        trainer = Trainer(
            model=model,
            train_dataloader=batches,
            max_duration=f"{section.steps}ba",
            optimizers=optimisers.build(ema.model, section),
            schedulers=schedule(section),
            step_schedulers_every_batch=True,
            device_train_microbatch_size=min(section.microbatch or share, share),
            callbacks=callbacks,
            load_path=None if found is None else str(loadable(found)),
            parallelism_config=sharding.configured(ema.model, section.sharding, not whole, here),
            device="gpu" if device.type == "cuda" else "cpu",
            precision="fp32",
            seed=seed,
            spin_dataloaders=False,
            run_name=stage,
            progress_bar=False,
            log_to_console=False,
            loggers=[],
        )
        with checkpoints.saving_on_sigterm():
            if start < section.steps:
                trainer.fit()
                checkpoints.save(trainer.state)  # a stage that is done stays done while the recipe's next one trains
            trainer.close()
        if spread:
            plain.load_state_dict(sharding.gathered(ema.module.state_dict()))
        ema.module = plain.cpu()
    seconds = time.perf_counter() - begun
    last = reporting.curve[-1] if reporting.curve else {}
    joules = sum(row.get("joules", 0.0) for row in reporting.curve)  # the curve knows all lives of the run
    trained = [parameter for parameter in ema.model.parameters() if parameter.requires_grad]
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
            "precision": precision.name(precision.fast_dtype(device.type)),
            "device": device.type,
            "ranks": here.ranks,
            "samples_dropped_per_epoch": sum(loader.dropped.values()),
            **{name: round(last[name], 4) for name in ("mfu", "mfu_of_gemm", "joules_per_image") if name in last},
            **({JOULES: round(joules, 1)} if joules else {}),
        },
    )


def _gauges(model: Any, loss: Loss, batches: Batches, here: Place, device: torch.device) -> list[Gauge]:
    power = Power.of(device, here)
    return [Utilisation.of(model, loss, batches.first(), here), *([power] if power is not None else [])]


def _saves(
    job: JobContext[Any], stage: str, loss: Loss, section: OptimiserSection, here: Place, closing: ExitStack
) -> Saves:
    """Where a stage's checkpoints lie, held for this process: another spec or another program never resumes them."""
    name = f"{stage}-{_identity(job, loss)[:12]}"
    folder = job.folder / CHECKPOINTS / name
    if here.rank == 0:
        closing.enter_context(JobFolder(folder).lock())
    prefix = f"{job.output}/{CHECKPOINTS}/{name}"
    catalog = Settings.load().catalog_url
    record = CatalogRecord(catalog, f"{job.store.uri}/{prefix}") if catalog and here.rank == 0 else None
    if record is not None:
        closing.callback(record.close)
    sharded = section.checkpoints == "sharded" and section.sharding != "ddp"
    return Saves(folder, here, record, job.shared if section.keep_in_store or job.ephemeral else None, prefix, sharded)


def _settled(found: Path | None, device: torch.device, here: Place) -> dict[str, str]:
    """The number formats of the run, by device: what a checkpoint says, or else what rank 0 has measured, for all ranks
    and all lives. Timings differ from one to the next, and so would the numbers.
    """
    formats = {} if found is None else formats_of(found)
    if device.type not in formats:
        measured = precision.name(precision.fast_dtype(device.type)) if here.rank == 0 else ""
        formats[device.type] = ranks.from_first(measured)
    precision.settle(device.type, formats[device.type])
    return formats


def _identity(job: JobContext[Any], loss: Loss) -> str:
    """The hash of all that a checkpoint depends on, and of nothing that only says how it is computed."""
    spec = canonical_json(without_operation(job.spec.model_dump(mode="json")))
    return sha256_bytes(spec + source_hash(loss.__module__).encode())


def forget_checkpoints(job: JobContext[Any]) -> None:
    """What a finished recipe does last: its model is in the store."""
    ranks.from_first(None)  # nobody before rank 0 has put it there
    here = place()
    if here.local_rank == 0:
        shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)
    if here.rank == 0:
        job.store.delete_prefix(f"{job.output}/{CHECKPOINTS}/")


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
