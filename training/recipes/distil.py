"""Recipe: distil the guided teacher into a few-step student with one forward per step.

The student u(z, t, d, w) learns the average velocity over [t - d, t] of the teacher under guidance w, by splitting the
interval (Shortcut models, Frans et al. 2024; SplitMeanFlow, Guo et al. 2025) with an anchor at d = 0:

    v_w     v(∅) + w (v(y) - v(∅)): only the text is dropped, never what is kept of the picture
    anchor  ‖u(z_t, t, 0, w) - v_w(z_t, t)‖²
    split   ‖u(z_t, t, d, w) - ½ [v_w(z_t, t) + v_w(z_s, s)]‖²    s = t - d/2, z_s = z_t - d/2 v_w(z_t, t)

The two halves are the teacher's own steps, not the averaged student's: at four steps or more the teacher is accurate
over d/2, and a student that learns from itself would first have to become right at d/2, d/4, … (at four steps of 64
pictures each that took the floor line from 74 to 63 %). Needs no forward-mode derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training import flow
from training.batches import Batch, choose
from training.composer_model import Loss
from training.ema import Ema
from training.models.dit import DiT, as_flow_map
from training.precision import autocast, fast_dtype
from training.presets.sections import DistilSection
from training.recipes.fit import fit
from training.recipes.flows import GUIDANCE, Latents, load_dit, result_of
from training.specs import DistilSpec

OWN_STEP = 0.75
"""Share of the split that learns the student's own step; the rest learns half of it, so that d has a slope."""
ON_GRID = 0.75
"""Share of the split at the times that the sampler visits; the rest lies anywhere."""


def run(spec: DistilSpec, job: JobContext[DistilSpec]) -> JobResult:
    section = spec.config
    torch.manual_seed(spec.seed)
    latents = Latents(spec, job)
    teacher = load_dit(job.store, spec.teacher).eval().requires_grad_(False)
    ema = Ema(as_flow_map(teacher), section.ema)
    draw = latents.draw(section.student_steps, GUIDANCE)
    loader = latents.loader(section.batch_size, spec.seed + 3)
    loss = distillation_loss(teacher, section)
    stage = fit(job, "distil", ema, loss, loader, section, spec.seed + 3, draw)
    return result_of(
        job, spec, ema.module, {"distil": stage}, draw, teacher=spec.teacher, student_steps=section.student_steps
    )


def distillation_loss(teacher: DiT, section: DistilSection) -> Loss:
    """Anchor on the first part of a batch, interval splitting on the rest, in one forward of the student."""

    def loss(model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = choose(batch, 1.0, 0.0, section.text_dropout, generator)
        x, mask = chosen["latent"], chosen["mask"]
        count = len(x)
        anchors = max(1, min(count - 1, round(section.anchor_share * count)))
        spread = section.guidance_high - section.guidance_low
        w = section.guidance_low + spread * torch.rand(count, generator=generator)
        t, d = times_and_steps(count, anchors, section, generator)
        z = flow.interpolate(x, torch.randn(x.shape, generator=generator), t)
        given = (chosen["masked"], mask, chosen["text"], chosen["text_length"])
        head, tail = slice(None, anchors), slice(anchors, None)
        with autocast(fast_dtype()):
            with torch.no_grad():
                first, rest = (tuple(part[rows] for part in given) for rows in (head, tail))
                guided = guided_velocity(teacher, z[head], t[head], first, w[head])
                average = split_target(teacher, z[tail], t[tail], d[tail], rest, w[tail])
            predicted = model(z, t, *given, d, w)
        target = torch.cat([guided.float(), average.float()])
        error = flow.weighted_error(predicted.float(), target, mask, section.hole_weight)
        return {"loss": error.mean(), "anchor": error[head].mean().detach(), "split": error[tail].mean().detach()}

    return loss


def times_and_steps(
    count: int, anchors: int, section: DistilSection, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """t and d (count,) each; d = 0 for the anchors, else the student's step or half of it, d ≤ t."""
    own = torch.rand(count, generator=generator) < OWN_STEP
    d = torch.where(own, 1.0, 0.5) / section.student_steps
    cells = torch.round(1 / d)
    place = torch.rand(count, generator=generator)
    on_grid = (torch.floor(place * cells) + 1) / cells  # a multiple of d in (0, 1]
    anywhere = d + place * (1 - d)
    t = torch.where(torch.rand(count, generator=generator) < ON_GRID, on_grid, anywhere)
    anchor = torch.arange(count) < anchors
    anchor_t = flow.logit_normal_times(count, section.time_mean, section.time_std, generator)
    return torch.where(anchor, anchor_t, t), torch.where(anchor, 0.0, d)


def guided_velocity(teacher: DiT, z: Tensor, t: Tensor, given: tuple[Tensor, ...], w: Tensor) -> Tensor:
    """The teacher's velocity under guidance w (B,); `given` is masked, mask, text, text_length."""
    masked, mask, text, length = given
    both = teacher(*(torch.cat([part, part]) for part in (z, t, masked, mask, text)), torch.cat([length, 0 * length]))
    conditional, unconditional = both.float().chunk(2)
    return flow.guide(conditional, unconditional, w)


def split_target(teacher: DiT, z: Tensor, t: Tensor, d: Tensor, given: tuple[Tensor, ...], w: Tensor) -> Tensor:
    """The mean velocity of the teacher's two half steps from z at t over d (B,)."""
    half = d / 2
    first = guided_velocity(teacher, z, t, given, w)
    second = guided_velocity(teacher, z - half[:, None, None, None] * first, t - half, given, w)
    return 0.5 * (first + second)
