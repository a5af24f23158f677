"""What the recipes on latents share: their data, their sample grid and their result."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from infra.errors import BackdropError
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore
from training import pictures
from training.batches import listed_loader
from training.callbacks.held_out import HeldOut
from training.completion import held_out_errors
from training.editing import complete, composite
from training.encoding import Encoder, encoder_of
from training.flow import resolution_shift
from training.loader import Loader
from training.models.dit import DiT
from training.models.io import load_model, save_model
from training.parts import TorchParts
from training.precision import fast_dtype
from training.presets.sections import CompletionSection, FlowSection
from training.recipes.fit import Draw, Fit, forget_checkpoints
from training.specs import FlowSpec

TEACHER_STEPS, GUIDANCE = 8, 2.0
GREY = 128
HELD_OUT = 256
"""Samples that the loss is measured on while a recipe trains, at most."""


class Latents:
    """A `latents` listing, opened: batches to learn from, others to be measured on, and examples to draw."""

    def __init__(self, spec: FlowSpec, job: JobContext[Any]) -> None:
        self.listing = json.loads(job.store.get(spec.latents))
        if self.listing["autoencoder"] != spec.autoencoder:
            raise BackdropError(
                f"The latents {spec.latents} were made by autoencoder {self.listing['autoencoder'][:12]}, "
                f"not by {spec.autoencoder[:12]}.",
                "Materialise latent_shards again.",
            )
        self.job, self.spec = job, spec
        self.autoencoder = load_model(job.store, spec.autoencoder)
        self.jittered = int(self.listing["section"]["jittered_masks"])
        with np.load(io.BytesIO(job.store.get(self.listing["examples"])), allow_pickle=False) as arrays:
            self.examples = {name: arrays[name] for name in arrays.files}

    @cached_property
    def encoder(self) -> Encoder | None:
        """One for all loaders of a recipe, loaded with the first of them; None where nothing is left to encode."""
        return encoder_of(self.job.store, self.listing, self.spec.text_encoder)

    def loader(self, batch_size: int, seed: int, split: str = "slices") -> Loader:
        cache = self.job.folder / "cache"
        return listed_loader(self.job.store, self.listing, cache, batch_size, seed, self.encoder, split)

    def held_out(self, section: CompletionSection, product_share: float, empty_share: float) -> HeldOut | None:
        """What measures the loss on held-out samples; None where that is not asked for, or there are none."""
        if not section.held_out_every or not self.listing["holdout"]:
            return None
        batch = self.loader(HELD_OUT, self.spec.seed, "holdout").batch(0)
        return held_out_errors(section, product_share, empty_share, batch, self.jittered)

    @property
    def channels(self) -> int:
        return int(self.autoencoder.config.latent_channels)

    @property
    def text_width(self) -> int:
        return int(self.examples["text"].shape[-1])

    def shift(self, section: FlowSection) -> float:
        """How the times are shifted at which a square picture is learned, and has to be sampled."""
        cells = (self.spec.image_size // self.autoencoder.config.factor) ** 2
        return resolution_shift(cells, section.shift_base)

    def draw(self, section: FlowSection, steps: int = TEACHER_STEPS, guidance: float = GUIDANCE) -> Draw:
        """draw(DiT) → a grid: masked input, generated, composite, truth."""
        examples = self.examples
        captions = [str(caption) for caption in examples["captions"]]
        rows = {caption: index for index, caption in enumerate(captions)}

        def embed(wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            index = [rows[caption] for caption in wanted]
            return examples["text"][index], examples["text_length"][index]

        images, product = examples["images"], examples["product"]

        def grid(model: DiT) -> bytes:
            fast = fast_dtype(next(model.parameters()).device.type)
            parts = TorchParts(self.autoencoder, model.eval(), embed, self.spec.image_size, fast)
            generated = complete(
                parts,
                images,
                product,
                captions,
                steps=steps,
                guidance=guidance,
                seeds=range(len(images)),
                student=model.config.flow_map,
                shift=1.0 if model.config.flow_map else self.shift(section),
            )
            masked = composite(images, np.full_like(images, GREY), product)
            columns = (masked, generated, composite(images, generated, product), images)
            titles = ("product", "generated", "composite", "photograph")
            return pictures.sample_grid(list(zip(*columns, strict=True)), titles, captions)

        return Draw(grid, [str(image_id) for image_id in examples["ids"]])


def result_of(
    job: JobContext[Any], spec: FlowSpec, model: DiT, stages: dict[str, Fit], draw: Draw, **meta: Any
) -> JobResult:
    """Save the model as a bundle and describe how it came about."""
    meta |= {"dataset": spec.dataset, "latents": spec.latents}
    model_id = save_model(job.store, job.output, "dit", model, meta)
    curve = _joined(list(stages.values()))
    metadata: dict[str, Any] = {}
    for name, stage in stages.items():
        prefix = f"{name}_" if len(stages) > 1 else ""
        metadata.update({f"{prefix}{key}": value for key, value in stage.metadata.items()})
    names = [name for name in ("loss", "alignment", "anchor", "split", "own", "window") if curve and name in curve[0]]
    result = JobResult(
        metadata=metadata,
        files={"curve": job.put_json("curve", curve)},
        data={"model": model_id},
        pictures={
            "Loss": job.put_png("loss", pictures.loss_curve(curve, " → ".join(stages), names)),
            "Samples": job.put_png("samples", draw(model), draw.shows),
        },
    )
    forget_checkpoints(job)
    return result


def load_dit(store: ObjectStore, bundle_id: str) -> DiT:
    model = load_model(store, bundle_id)
    if not isinstance(model, DiT):
        raise BackdropError(f"Bundle {bundle_id[:12]} is no transformer.", "Give a model of pretrained_dit or later.")
    return model


def _joined(stages: list[Fit]) -> list[dict[str, float]]:
    """Curves one after the other on one step axis."""
    joined: list[dict[str, float]] = []
    for stage in stages:
        offset = int(joined[-1]["step"]) if joined else 0
        joined += [{**row, "step": row["step"] + offset} for row in stage.curve]
    return joined
