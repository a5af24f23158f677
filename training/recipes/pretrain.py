"""Recipe: pretrain the transformer, conditioned on text and on what is kept of the picture from its first step."""

from __future__ import annotations

import torch

from infra.errors import BackdropError
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training.completion import completion_loss
from training.ema import Ema
from training.models.dit import DiT, DiTConfig
from training.perceptual import open_features
from training.recipes.fit import Draw, fit
from training.recipes.flows import Latents, result_of
from training.repa import Aligned, Alignment, PictureTeacher, check_alignment
from training.specs import PretrainSpec
from training.tread import check_route


def run(spec: PretrainSpec, job: JobContext[PretrainSpec]) -> JobResult:
    section, shape = spec.config, spec.dit
    torch.manual_seed(spec.seed)
    latents = Latents(spec, job)
    text_width = latents.text_width
    config = DiTConfig(
        latents.channels, shape.width, shape.depth, shape.heads, shape.patch, shape.mlp_ratio, text_width
    )
    _check(spec, config)
    dit = DiT(config)
    model: DiT | Aligned = dit
    alignment = None
    if section.repa is not None:
        teacher = PictureTeacher(latents.autoencoder, open_features(section.repa.features))
        model, alignment = Aligned(dit, section.repa, teacher.width), Alignment(section.repa, teacher)

    ema = Ema(model, section.ema, section.ema_every)
    draw = latents.draw(section)
    shares = section.product_share, section.empty_share
    loss = completion_loss(section, *shares, patch=shape.patch, jittered=latents.jittered, alignment=alignment)
    measure = latents.held_out(section, *shares)
    stage = fit(
        job,
        "pretrain",
        ema,
        loss,
        latents.loader(section.batch_size, spec.seed),
        section,
        spec.seed,
        Draw(lambda average: draw(inside(average)), draw.shows),
        None if measure is None else lambda average: measure(inside(average)),
    )
    return result_of(job, spec, inside(ema.module), {"pretrain": stage}, draw, shift=latents.shift(section))


def inside(model: DiT | Aligned) -> DiT:
    """The transformer without the projection that it is trained with."""
    return model.dit if isinstance(model, Aligned) else model


def _check(spec: PretrainSpec, config: DiTConfig) -> None:
    """What only the model's shape can tell about the options."""
    section = spec.config
    try:
        if section.tread is not None:
            check_route(section.tread, config)
        if section.repa is not None:
            check_alignment(section.repa, config, section.tread)
    except ValueError as error:
        raise BackdropError(f"These options do not fit the model: {error}.", "Change pretrain or dit.") from error
