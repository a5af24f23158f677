"""Recipe: distil the guided teacher into a few-step student with one forward per step.

`training.distillation` says what is taught; here the lessons of a batch are asked for in one forward of the student.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training import flow
from training.batches import choose
from training.composer_model import Loss
from training.distillation import LOSSES, Given, Negatives, as_long, average_velocity
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

NEGATIVES = 256
"""Pictures whose captions are negative texts for others."""
FLOOR = 1e-3
"""Squared error below which a lesson weighs less the better it is known."""


def run(spec: DistilSpec, job: JobContext[DistilSpec]) -> JobResult:
    section = spec.config
    torch.manual_seed(spec.seed)
    latents = Latents(spec, job)
    teacher = load_dit(job.store, spec.teacher).eval().requires_grad_(False)
    ema = Ema(as_flow_map(teacher), section.ema, section.ema_every)
    draw = latents.draw(section, section.student_steps, GUIDANCE)
    others = latents.loader(NEGATIVES, spec.seed + 4).batch(0)
    loader = latents.loader(section.batch_size, spec.seed + 3)
    loss = distillation_loss(teacher, section, Negatives(others["text"], others["text_length"]), latents.jittered)
    stage = fit(job, "distil", ema, loss, loader, section, spec.seed + 3, draw)
    return result_of(
        job, spec, ema.module, {"distil": stage}, draw, teacher=spec.teacher, student_steps=section.student_steps
    )


def distillation_loss(teacher: DiT, section: DistilSection, negatives: Negatives, jittered: int = 0) -> Loss:
    """The error of the student's answers to the lessons of `section.loss`: squared, over its own root.

    What can be reached differs a hundredfold between lessons: a negative text under strong guidance is far harder than
    a step near data. Squared errors let the hard ones drown the rest (on `nano` the pictures then lay a third farther
    from the teacher's); their roots, as in improved consistency training (Song & Dhariwal 2023), do not.
    The lessons' own entries are plain squared errors.
    """
    lessons_of = LOSSES[section.loss]

    def loss(model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        chosen = choose(batch, 1.0, 0.0, section.text_dropout, draws, jittered)
        x, mask = chosen["latent"], chosen["mask"]
        beside(teacher, x)
        away, away_length = negatives.draw(draws, section.negative_share)
        text, away = as_long([chosen["text"], away])
        w = section.guidance_low + (section.guidance_high - section.guidance_low) * draws.uniform("guidance")  # (B,)
        given = Given(chosen["masked"], mask, text, chosen["text_length"], w, away, away_length)
        fast = fast_dtype(x.device.type)
        with torch.no_grad(), autocast(fast):
            taught = lessons_of(teacher, model, x, given, draws, section)
        lessons = {name: lesson for name, lesson in taught.items() if lesson.share > 0}
        parts = list(lessons.values())
        rows, z, t, d = (torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "z", "t", "d"))
        with autocast(fast):  # anew: it keeps the weights that it has cast, above without their gradients
            answered = average_velocity(model, z, t, d, given.of(rows))
        target = torch.cat([part.target for part in parts])
        error = flow.weighted_error(answered, target, mask[rows], section.hole_weight)  # (lessons,)
        heavy = error / (error.detach() + FLOOR).sqrt()
        # Over as many as a part would have of each: so means over microbatches and ranks, one of which may have none
        # of a kind at all, are those of the global batch.
        counts = [len(part.rows) for part in parts]
        shown = {
            name: errors.detach().sum() / (len(x) * part.share)
            for (name, part), errors in zip(lessons.items(), error.split(counts), strict=True)
        }
        return {"loss": heavy.sum() / (len(x) * sum(part.share for part in parts)), **shown}

    return loss
