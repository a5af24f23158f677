"""What the recipes on latents share: their data, their loss, their sample grid and their result."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import BackdropError
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore
from infra.shards import Slice
from training import flow, pictures
from training.batches import Batch, choose, latent_loader
from training.composer_model import Loss
from training.editing import complete, composite
from training.models.dit import DiT
from training.models.io import load_model, save_model
from training.parts import TorchParts
from training.precision import autocast, fast_dtype
from training.presets.sections import FlowSection
from training.recipes.fit import Draw, Fit, forget_checkpoints
from training.specs import FlowSpec

TEACHER_STEPS, GUIDANCE = 8, 2.0
GREY = 128


class Latents:
    """A `latents` listing, opened: slices to learn from and examples to draw."""

    def __init__(self, spec: FlowSpec, job: JobContext[Any]) -> None:
        listing = json.loads(job.store.get(spec.latents))
        if listing["autoencoder"] != spec.autoencoder:
            raise BackdropError(
                f"The latents {spec.latents} were made by autoencoder {listing['autoencoder'][:12]}, "
                f"not by {spec.autoencoder[:12]}.",
                "Materialise latent_shards again.",
            )
        self.job, self.spec = job, spec
        self.slices = [Slice(**piece) for piece in listing["slices"]]
        with np.load(io.BytesIO(job.store.get(listing["examples"])), allow_pickle=False) as arrays:
            self.examples = {name: arrays[name] for name in arrays.files}

    def loader(self, batch_size: int, seed: int) -> Any:
        return latent_loader(self.job.store, self.slices, self.job.folder / "cache", batch_size, seed)

    @property
    def text_width(self) -> int:
        return int(self.examples["text"].shape[-1])

    def draw(self, steps: int = TEACHER_STEPS, guidance: float = GUIDANCE) -> Draw:
        """draw(DiT) → a grid: masked input, generated, composite, truth."""
        examples = self.examples
        captions = [str(caption) for caption in examples["captions"]]
        rows = {caption: index for index, caption in enumerate(captions)}

        def embed(wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            index = [rows[caption] for caption in wanted]
            return examples["text"][index], examples["text_length"][index]

        autoencoder = load_model(self.job.store, self.spec.autoencoder)
        images, product = examples["images"], examples["product"]

        def grid(model: DiT) -> bytes:
            parts = TorchParts(autoencoder, model.eval(), embed, self.spec.image_size, fast_dtype())
            generated = complete(
                parts,
                images,
                product,
                captions,
                steps=steps,
                guidance=guidance,
                seeds=range(len(images)),
                student=model.config.flow_map,
            )
            masked = composite(images, np.full_like(images, GREY), product)
            columns = (masked, generated, composite(images, generated, product), images)
            titles = ("product", "generated", "composite", "photograph")
            return pictures.sample_grid(list(zip(*columns, strict=True)), titles, captions)

        return Draw(grid, [str(image_id) for image_id in examples["ids"]])


def completion_loss(section: FlowSection, product_share: float, empty_share: float) -> Loss:
    """Flow matching with mask and text conditions, the error weighted towards the hole."""

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = choose(batch, product_share, empty_share, section.text_dropout, generator)
        x, mask = chosen["latent"], chosen["mask"]
        noise = torch.randn(x.shape, generator=generator)
        t = flow.logit_normal_times(len(x), section.time_mean, section.time_std, generator)
        with autocast(fast_dtype()):
            predicted = model(
                flow.interpolate(x, noise, t), t, chosen["masked"], mask, chosen["text"], chosen["text_length"]
            )
        error = flow.weighted_error(predicted.float(), flow.velocity(x, noise), mask, section.hole_weight)
        return {"loss": error.mean()}

    return loss


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
    names = [name for name in ("loss", "anchor", "split") if curve and name in curve[0]]
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
