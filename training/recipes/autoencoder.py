"""Recipe: train the autoencoder on one dataset version, then fix the latents' normalisation."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.shards import load_version, read_slices
from training import pictures, precision
from training.batches import Batch, image_loader, square, train_slices
from training.editing import to_float, to_uint8
from training.ema import Ema
from training.models.autoencoder import Autoencoder, AutoencoderConfig, reconstruction_loss
from training.models.io import save_model
from training.presets.sections import AutoencoderSection
from training.recipes.fit import Draw, fit, forget_checkpoints
from training.specs import AutoencoderSpec

NORMALISED_OVER = 512  # pictures
SHOWN = 6


def run(spec: AutoencoderSpec, job: JobContext[AutoencoderSpec]) -> JobResult:
    section = spec.config
    torch.manual_seed(spec.seed)
    slices = train_slices(load_version(job.store, spec.dataset).slices)
    cache = job.folder / "cache"
    loader = image_loader(job.store, slices, cache, section.batch_size, spec.image_size, spec.seed)
    model = Autoencoder(AutoencoderConfig(section.factor, section.latent_channels, section.width, section.depth))
    ema = Ema(model, section.ema)
    ids, squares = [], []
    for sample in islice(read_slices(job.store, slices, cache), NORMALISED_OVER):
        ids.append(str(sample["id"]))
        squares.append(square(sample, spec.image_size))
    images = _tensor(np.stack(squares))
    draw = Draw(lambda autoencoder: _grid(autoencoder, images[:SHOWN]), ids[:SHOWN])
    fitted = fit(job, "autoencoder", ema, loss_of(section), loader, section, spec.seed, draw)
    trained = ema.module
    with torch.no_grad(), precision.autocast(precision.fast_dtype()):
        trained.normalise(torch.cat([trained.moments(part)[0].float() for part in images.split(64)]))
    fitted.metadata["psnr_db"] = round(psnr(trained, images[:64]), 2)
    model_id = save_model(
        job.store, job.output, "autoencoder", trained, {"dataset": spec.dataset, "image_size": spec.image_size}
    )
    result = JobResult(
        metadata=fitted.metadata,
        files={"curve": job.put_json("curve", fitted.curve)},
        data={"model": model_id},
        pictures={
            "Loss": job.put_png("loss", pictures.loss_curve(fitted.curve, "autoencoder", ("loss", "l1", "edges"))),
            "Samples": job.put_png("samples", draw(trained), draw.shows),
        },
    )
    forget_checkpoints(job)
    return result


def loss_of(section: AutoencoderSection) -> Any:
    """The autoencoder's loss on a batch {"image": uint8 (B, 3, H, W)}."""

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(model, Autoencoder)
        images = batch["image"].float() / 127.5 - 1
        batch_size, _, height, width = images.shape
        factor = model.config.factor
        noise = torch.randn(
            batch_size, model.config.latent_channels, height // factor, width // factor, generator=generator
        )
        with precision.autocast(precision.fast_dtype()):
            return reconstruction_loss(model, images, noise, section.kl_weight, section.gradient_weight)

    return loss


@torch.no_grad()
def psnr(model: Autoencoder, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of (N, 3, H, W) in [-1, 1]."""
    error = (model.decode(model.encode(images)).clamp(-1, 1) - images) / 2
    return float(-10 * torch.log10(error.square().mean()))


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(to_float(images)).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def _grid(model: Autoencoder, images: Tensor) -> bytes:
    decoded = model.decode((model.moments(images)[0] - model.mean) / model.std)
    rows = [
        [to_uint8(picture.permute(1, 2, 0).numpy()) for picture in pair] for pair in zip(images, decoded, strict=True)
    ]
    return pictures.sample_grid(rows, ["picture", "reconstruction"], [""] * len(rows))
