"""Recipe: train the autoencoder on one dataset version, then fix the latents' normalisation.

Optional: perceptual and adversarial terms, a second decoder for editing, or a diffusers AutoencoderKL instead.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import BackdropError
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore
from infra.shards import Slice, load_version, read_slices
from training import pictures, precision
from training.adversarial import Adversary
from training.batches import image_loader
from training.editing import to_float
from training.ema import Ema
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.decoder import MaskedDecoder
from training.models.diffusers_vae import load_diffusers
from training.models.io import save_model
from training.perceptual import open_features
from training.presets.sections import AutoencoderSection
from training.recipes.fit import Draw, Fit, fit, forget_checkpoints
from training.recipes.masked_decoder import Probe, masked_decoder_loss
from training.reconstruction import reconstruction_loss
from training.samples import square, train_slices
from training.specs import AutoencoderSpec

NORMALISED_OVER = 512  # pictures
MEASURED_OVER = 64
SHOWN = 6


def run(spec: AutoencoderSpec, job: JobContext[AutoencoderSpec]) -> JobResult:
    section = spec.config
    data = Pictures(job, spec.dataset, spec.image_size, spec.seed)
    draw = Draw(lambda model: grid(model, data.images[:SHOWN]), data.ids[:SHOWN])
    if section.diffusers is not None:
        trained: Autoencoder = load_diffusers(section.diffusers)
        fitted = Fit([], {"parameters": sum(weight.numel() for weight in trained.parameters())})
    else:
        trained, fitted = train(job, "autoencoder", section, data, draw)
    measured = data.images[:MEASURED_OVER]
    fitted.metadata["psnr_db"] = round(psnr(reconstructed(trained, measured), measured), 2)
    meta = {"dataset": spec.dataset, "image_size": spec.image_size}
    kind = "autoencoder" if section.diffusers is None else "diffusers_autoencoder"
    result = JobResult(
        metadata=fitted.metadata,
        files={"curve": job.put_json("curve", fitted.curve)},
        data={"model": save_model(job.store, job.output, kind, trained, meta)},
        pictures={"Samples": job.put_png("samples", draw(trained), draw.shows)},
    )
    if fitted.curve:
        curve = pictures.loss_curve(fitted.curve, "autoencoder", ("loss", "l1", "edges"))
        result.pictures = {"Loss": job.put_png("loss", curve), **result.pictures}
    if section.masked_decoder is not None:
        add_masked_decoder(job, section, data, trained, result)
    forget_checkpoints(job)
    return result


class Pictures:
    """What the autoencoder learns from and is measured on."""

    def __init__(self, job: JobContext[Any], dataset: str, size: int, seed: int) -> None:
        version = load_version(job.store, dataset)
        self.store: ObjectStore = job.store
        self.slices: list[Slice] = train_slices(version.slices)
        self.held_out: list[Slice] = version.of("holdout") or self.slices
        self.cache, self.size, self.seed = job.folder / "cache", size, seed
        self.ids, self.images = read_pictures(job, self.slices, size, NORMALISED_OVER)

    def loader(self, batch_size: int) -> Any:
        return image_loader(self.store, self.slices, self.cache, batch_size, self.size, self.seed)


def train(
    job: JobContext[Any], stage: str, section: AutoencoderSection, data: Pictures, draw: Draw | None = None
) -> tuple[Autoencoder, Fit]:
    """An autoencoder of the section's shape, trained and normalised."""
    if section.crop is not None and section.crop > data.size:
        what = f"autoencoder.crop of {section.crop} is larger than the pictures' side of {data.size}."
        raise BackdropError(what, "Lower it or raise image_size.")
    torch.manual_seed(data.seed)
    config = AutoencoderConfig(
        section.factor, section.latent_channels, section.width, section.depth, codes=section.codes
    )
    autoencoder = Autoencoder(config)
    if autoencoder.codebook is not None:
        autoencoder.codebook.start(raw_latents(autoencoder, data.images), data.seed)
    model: nn.Module = autoencoder
    if section.adversarial is not None:
        model = Adversary(autoencoder, section.adversarial)
    features = None if section.perceptual is None else open_features(section.perceptual.features)
    ema = Ema(model, section.ema, section.ema_every)
    loss = reconstruction_loss(section, features)
    fitted = fit(job, stage, ema, loss, data.loader(section.batch_size), section, data.seed, draw)
    trained = inside(ema.module)
    trained.normalise(raw_latents(trained, data.images))
    return trained, fitted


def add_masked_decoder(
    job: JobContext[Any], section: AutoencoderSection, data: Pictures, autoencoder: Autoencoder, result: JobResult
) -> None:
    """Train the second decoder and write it into the result, with both decoders' seams on held-out pictures."""
    second = section.masked_decoder
    assert second is not None
    ids, images = read_pictures(job, data.held_out, data.size, MEASURED_OVER)
    probe = Probe.of(images, section.latent_channels, second.drift, data.seed)
    draw = Draw(probe.grid(autoencoder, min(SHOWN, len(images))), ids[:SHOWN])
    torch.manual_seed(data.seed)  # Composer has left each rank with a seed of its own
    ema = Ema(MaskedDecoder.beside(autoencoder), second.ema, second.ema_every)
    loss = masked_decoder_loss(second, autoencoder)
    fitted = fit(job, "masked decoder", ema, loss, data.loader(second.batch_size), second, data.seed, draw)
    seams = probe.seams(autoencoder, ema.module)
    result.metadata.update({f"seam_{name}_decoder": error for name, error in seams.items()})
    result.metadata.update({f"masked_decoder_{name}": value for name, value in fitted.metadata.items()})
    meta = {"autoencoder": result.data["model"]}
    result.data["masked_decoder"] = save_model(job.store, job.output, "masked_decoder", ema.module, meta)
    result.pictures["Seams"] = job.put_png("seams", draw(ema.module), draw.shows)


def read_pictures(job: JobContext[Any], slices: list[Slice], size: int, count: int) -> tuple[list[str], Tensor]:
    """The first `count` samples of `slices`: their ids, and their pictures (N, 3, size, size) in [-1, 1]."""
    ids, squares = [], []
    for sample in islice(read_slices(job.store, slices, job.folder / "cache"), count):
        ids.append(str(sample["id"]))
        squares.append(square(sample, size))
    return ids, torch.from_numpy(to_float(np.stack(squares))).permute(0, 3, 1, 2).contiguous()


def inside(model: nn.Module) -> Autoencoder:
    """The autoencoder that was trained, without what it was trained against."""
    found = model.autoencoder if isinstance(model, Adversary) else model
    assert isinstance(found, Autoencoder)
    return found


@torch.no_grad()
def raw_latents(model: Autoencoder, images: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) → latents (N, C, h, w) before normalisation."""
    with precision.mixed(model.mean.device):
        return torch.cat([model.moments(part.to(model.mean.device))[0].float() for part in images.split(64)])


@torch.no_grad()
def reconstructed(model: Autoencoder, images: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1], there and back."""
    parts = [model.decode(model.encode(part.to(model.mean.device))).cpu() for part in images.split(64)]
    return torch.cat(parts).clamp(-1, 1)


def psnr(decoded: Tensor, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of what was decoded of pictures (N, 3, H, W) in [-1, 1]."""
    return float(-10 * torch.log10(((decoded - images) / 2).square().mean()))


def grid(model: nn.Module, images: Tensor) -> bytes:
    """PNG: each picture beside its reconstruction."""
    return pictures.tensor_grid([images, reconstructed(inside(model), images)], ["picture", "reconstruction"])
