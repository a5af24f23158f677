"""What the transformer learns by: the velocity of pictures with holes, conditioned on text and on what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from training import flow
from training.batches import choose
from training.draws import Draws
from training.feed import Batch
from training.precision import autocast, fast_dtype
from training.presets.sections import CompletionSection
from training.repa import Alignment
from training.tread import draw_route

if TYPE_CHECKING:
    from training.callbacks.held_out import HeldOut
    from training.composer_model import Loss

TIME_BUCKETS = 4


def completion_loss(
    section: CompletionSection,
    product_share: float,
    empty_share: float,
    *,
    patch: int,
    jittered: int = 0,
    alignment: Alignment | None = None,
) -> Loss:
    """Flow matching with mask and text conditions, the error weighted towards the hole.

    loss(DiT, batch of `latent_loader`, draws) → "loss". `jittered` as in `choose`. With an `alignment` the model is an
    `Aligned`, and what it adds to the loss is there as "alignment".
    """

    def loss(model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        chosen = choose(batch, product_share, empty_share, section.text_dropout, draws, jittered)
        x, mask = chosen["latent"], chosen["mask"]  # (B, C, h, w), (B, 1, h, w)
        cells = x.shape[2] * x.shape[3]
        noise = draws.normal("noise", *x.shape[1:])
        shift = flow.resolution_shift(cells, section.shift_base)
        t = flow.logit_normal_times(draws, section.time_mean, section.time_std, shift)  # (B,)
        z = flow.interpolate(x, noise, t)
        route = draw_route(section.tread, draws, cells // patch**2) if section.tread else None
        with autocast(fast_dtype(x.device.type)):
            predicted = model(z, t, chosen["masked"], mask, chosen["text"], chosen["text_length"], route=route)
        if alignment is not None:
            predicted, projected = predicted
        error = flow.weighted_error(predicted.float(), flow.velocity(x, noise), mask, section.hole_weight)  # (B,)
        if section.target == "noise":
            error = error * flow.noise_weight(t, section.min_snr)
        if alignment is None:
            return {"loss": error.mean()}
        term = alignment.term(projected, x, draws.step)
        return {"loss": error.mean() + term, "alignment": term.detach()}

    return loss


def held_out_errors(
    section: CompletionSection, product_share: float, empty_share: float, batch: Batch, jittered: int
) -> HeldOut:
    """The velocity's error on a held-out batch by time, t = 0 (data) to 1 (noise) in equal parts.

    Masks, noise and times are the same at every call, so that a curve of it shows the model alone. `jittered` as in
    `choose`. A part in which none of a small batch's times lies is left out.
    """
    draws = Draws.of(batch, seed=0, step=0)
    chosen = choose(batch, product_share, empty_share, 0.0, draws, jittered)
    noise, t = draws.normal("noise", *chosen["latent"].shape[1:]), draws.strata("times")

    @torch.no_grad()
    def measure(model: Any) -> Mapping[str, float]:
        device = next(model.parameters()).device
        x, masked, mask, text, length, eps, time = (
            part.to(device)
            for part in (*(chosen[name] for name in ("latent", "masked", "mask", "text", "text_length")), noise, t)
        )
        errors = []
        for rows in torch.arange(len(x)).split(64):
            z = flow.interpolate(x[rows], eps[rows], time[rows])
            with autocast(fast_dtype(device.type)):
                predicted = model(z, time[rows], masked[rows], mask[rows], text[rows], length[rows])
            target = flow.velocity(x[rows], eps[rows])
            errors.append(flow.weighted_error(predicted.float(), target, mask[rows], section.hole_weight))
        error, bucket = torch.cat(errors), (time * TIME_BUCKETS).long()
        found = {"loss": error.mean().item()}
        for index in bucket.unique().tolist():
            name = f"loss, t {index / TIME_BUCKETS:g} to {(index + 1) / TIME_BUCKETS:g}"
            found[name] = error[bucket == index].mean().item()
        return found

    return measure
