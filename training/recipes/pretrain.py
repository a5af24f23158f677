"""Recipe: pretrain the transformer, conditioned on text and on what is kept of the picture from its first step."""

from __future__ import annotations

import torch

from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training.ema import Ema
from training.models.dit import DiT, DiTConfig
from training.models.io import load_model
from training.recipes.fit import fit
from training.recipes.flows import Latents, completion_loss, result_of
from training.specs import PretrainSpec


def run(spec: PretrainSpec, job: JobContext[PretrainSpec]) -> JobResult:
    section = spec.config
    torch.manual_seed(spec.seed)
    latents = Latents(spec, job)
    channels = load_model(job.store, spec.autoencoder).config.latent_channels
    shape = spec.dit
    model = DiT(
        DiTConfig(channels, shape.width, shape.depth, shape.heads, shape.patch, shape.mlp_ratio, latents.text_width)
    )
    ema = Ema(model, section.ema)
    draw = latents.draw()
    loss = completion_loss(section, section.product_share, section.empty_share)
    stage = fit(job, "pretrain", ema, loss, latents.loader(section.batch_size, spec.seed), section, spec.seed, draw)
    return result_of(job, spec, ema.module, {"pretrain": stage}, draw)
