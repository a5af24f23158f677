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
from training.batches import choose
from training.composer_model import Loss
from training.draws import Draws
from training.ema import Ema
from training.feed import Batch
from training.frozen import beside
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
    ema = Ema(as_flow_map(teacher), section.ema, section.ema_every)
    draw = latents.draw(section, section.student_steps, GUIDANCE)
    loader = latents.loader(section.batch_size, spec.seed + 3)
    loss = distillation_loss(teacher, section, latents.jittered)
    stage = fit(job, "distil", ema, loss, loader, section, spec.seed + 3, draw)
    return result_of(
        job, spec, ema.module, {"distil": stage}, draw, teacher=spec.teacher, student_steps=section.student_steps
    )


def distillation_loss(teacher: DiT, section: DistilSection, jittered: int = 0) -> Loss:
    """Anchor on a share of a batch, interval splitting on the rest, in one forward of the student."""

    def loss(model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        chosen = choose(batch, 1.0, 0.0, section.text_dropout, draws, jittered)
        x, mask = chosen["latent"], chosen["mask"]
        beside(teacher, x)
        cells = x.shape[2] * x.shape[3]
        w = section.guidance_low + (section.guidance_high - section.guidance_low) * draws.uniform("guidance")  # (B,)
        anchor = anchors(draws, section.anchor_share)  # (B,) bool
        t, d = times_and_steps(anchor, section, draws, cells)
        z = flow.interpolate(x, draws.normal("noise", *x.shape[1:]), t)
        given = (chosen["masked"], mask, chosen["text"], chosen["text_length"])
        head, tail = anchor.nonzero()[:, 0], (~anchor).nonzero()[:, 0]
        with autocast(fast_dtype(x.device.type)):
            with torch.no_grad():
                first, rest = (tuple(part[rows] for part in given) for rows in (head, tail))
                guided = guided_velocity(teacher, z[head], t[head], first, w[head])
                average = split_target(teacher, z[tail], t[tail], d[tail], rest, w[tail])
            predicted = model(z, t, *given, d, w)
        target = torch.empty_like(z).index_copy(0, head, guided.float()).index_copy(0, tail, average.float())
        error = flow.weighted_error(predicted.float(), target, mask, section.hole_weight)  # (B,)
        share = anchor_count(draws.total, section.anchor_share) / draws.total
        # Over as many as a part would have of each: so means over microbatches and ranks, one of which may have no
        # anchor at all, are those of the global batch.
        parts = {"anchor": error[head].detach().sum() / share, "split": error[tail].detach().sum() / (1 - share)}
        return {"loss": error.mean(), **{name: part / len(error) for name, part in parts.items()}}

    return loss


def anchor_count(total: int, share: float) -> int:
    """How many samples of a global batch of `total` are anchors: `share` of them, and neither none nor all."""
    return max(1, min(total - 1, round(share * total)))


def anchors(draws: Draws, share: float) -> Tensor:
    """Which samples are anchors, bool (B,): `share` of the global batch, evenly spread over it."""
    count = anchor_count(draws.total, share)
    return draws.positions * count % draws.total < count


def times_and_steps(anchor: Tensor, section: DistilSection, draws: Draws, cells: int = 0) -> tuple[Tensor, Tensor]:
    """t and d (B,) each; d = 0 for the anchors (B,), else the student's step or half of it, d ≤ t."""
    own = draws.uniform("own step") < OWN_STEP
    d = torch.where(own, 1.0, 0.5) / section.student_steps
    intervals = torch.round(1 / d)
    place = draws.uniform("place")
    on_grid = (torch.floor(place * intervals) + 1) / intervals  # a multiple of d in (0, 1]
    anywhere = d + place * (1 - d)
    t = torch.where(draws.uniform("on grid") < ON_GRID, on_grid, anywhere)
    shift = flow.resolution_shift(cells, section.shift_base)
    anchor_t = flow.logit_normal_times(draws, section.time_mean, section.time_std, shift)
    return torch.where(anchor, anchor_t, t), torch.where(anchor, 0.0, d)


def guided_velocity(teacher: DiT, z: Tensor, t: Tensor, given: tuple[Tensor, ...], w: Tensor) -> Tensor:
    """The teacher's velocity under guidance w (B,); `given` is masked, mask, text, text_length."""
    if not len(z):  # a microbatch without an anchor
        return z
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
