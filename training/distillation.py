"""What a student is taught, and by whom: losses of distillation behind one protocol, by name.

The student u(z, t, d, w, n) learns the average velocity over [t - d, t] of the teacher under guidance w, led away from
a text n or from none. d = 1, ½, ¼ … are budgets of 1, 2, 4 … forwards per picture, all in one set of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import flow
from training.draws import Draws
from training.models.dit import DiT
from training.presets.sections import DistilSection

ON_GRID = 0.75
"""Share of the lessons at the times that a sampler visits; the rest lies anywhere."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Given:
    """What a batch's samples are conditioned on: only the texts are ever dropped, never what is kept of the picture."""

    masked: Tensor  # (B, C, h, w)
    mask: Tensor  # (B, 1, h, w)
    text: Tensor  # (B, L, E)
    text_length: Tensor  # (B,)
    guidance: Tensor  # (B,)
    negative: Tensor  # (B, L, E)  to lead away from, in place of no text
    negative_length: Tensor  # (B,)  0 = no text

    def of(self, rows: Tensor) -> Given:
        """The same of some samples, rows (n,) int64."""
        return Given(*(getattr(self, part.name)[rows] for part in fields(self)))


@dataclass(frozen=True)
class Lesson:
    """Samples `rows` (n,) of a batch are asked for u(z, t, d), and this is the answer.

    `share`: how many samples of a global batch have such a lesson, of all: what means over its parts are taken by.
    """

    rows: Tensor  # (n,) int64
    z: Tensor  # (n, C, h, w)
    t: Tensor  # (n,)
    d: Tensor  # (n,)
    target: Tensor  # (n, C, h, w)
    share: float


class DistilLoss(Protocol):
    """Lessons by name for a batch of latents x (B, C, h, w). All random numbers come from `draws`.

    Called without gradients; `student` is the one that learns, as it is now.
    """

    def __call__(
        self, teacher: DiT, student: nn.Module, x: Tensor, given: Given, draws: Draws, section: DistilSection
    ) -> Mapping[str, Lesson]: ...


def split(
    teacher: DiT, student: nn.Module, x: Tensor, given: Given, draws: Draws, section: DistilSection
) -> dict[str, Lesson]:
    """Interval splitting (Shortcut models, Frans et al. 2024; SplitMeanFlow, Guo et al. 2025), anchored at the teacher.

        v_w     v(n) + w (v(y) - v(n))
        split   ‖u(z_t, t, d) - ½ [v_w(z_t, t) + v_w(z_s, s)]‖²          s = t - d/2, z_s = z_t - d/2 v_w(z_t, t)
        own     ‖u(z_t, t, d) - ½ [u(z_t, t, d/2) + u(z_s, s, d/2)]‖²    z_s = z_t - d/2 u(z_t, t, d/2)
        anchor  ‖u(z_t, t, 0) - v_w(z_t, t)‖²

    Up to the default step the two halves are the teacher's, who is accurate over d/2: a student that learns those from
    itself would first have to become right at d/2, d/4, … (at four steps of 64 pictures each that took the floor line
    from 74 to 63 %). Longer steps are put together from the student's own, at half the teacher's cost. The anchor's
    answer is the first half of a split. Needs no forward-mode derivative.
    """
    budget, drawn = budgets(draws, section)
    t, d = times_and_steps(budget, draws)
    z = flow.interpolate(x, draws.normal("noise", *x.shape[1:]), t)
    taught = budget >= section.student_steps  # (B,) bool
    rows, alone = taught.nonzero()[:, 0], (~taught).nonzero()[:, 0]
    half = d / 2

    conditions = given.of(rows)
    first = guided_velocity(teacher, z[rows], t[rows], conditions)
    middle = z[rows] - _along(half[rows], first)
    second = guided_velocity(teacher, middle, (t - half)[rows], conditions)
    by_teacher = Lesson(rows, z[rows], t[rows], d[rows], 0.5 * (first + second), section.taught_share)

    conditions = given.of(alone)
    own = average_velocity(student, z[alone], t[alone], half[alone], conditions)
    middle = z[alone] - _along(half[alone], own)
    rest = average_velocity(student, middle, (t - half)[alone], half[alone], conditions)
    by_itself = Lesson(alone, z[alone], t[alone], d[alone], 0.5 * (own + rest), 1 - section.taught_share)

    anchored = (drawn[rows] < section.anchor_share).nonzero()[:, 0]
    some = rows[anchored]
    anchor = Lesson(some, z[some], t[some], torch.zeros_like(d[some]), first[anchored], section.anchor_share)
    return {"anchor": anchor, "split": by_teacher, "own": by_itself}


def perflow(
    teacher: DiT, student: nn.Module, x: Tensor, given: Given, draws: Draws, section: DistilSection
) -> dict[str, Lesson]:
    """PeRFlow (Yan et al. 2024): in each of n windows of time the teacher's path is made a straight line.

    A picture noised to a window's upper end is solved to its lower end by the guided teacher, in steps of half the
    default's; anywhere between the ends of that line the student is to move along it:

        window  ‖u(z_t, t, 1/n) - n (z_1 - z_0)‖²
    """
    budget, _ = budgets(draws, section)
    d = 1 / budget
    upper = (torch.floor(draws.uniform("window") * budget) + 1) * d  # (B,)
    z1 = flow.interpolate(x, draws.normal("noise", *x.shape[1:]), upper)
    steps = (2 * section.student_steps / budget).ceil().clamp(min=2)  # (B,)
    z0 = z1
    for step in range(int(steps.max())):
        rows = (steps > step).nonzero()[:, 0]
        length = (d / steps)[rows]
        v = guided_velocity(teacher, z0[rows], upper[rows] - step * length, given.of(rows))
        z0 = z0.index_copy(0, rows, z0[rows] - _along(length, v))
    share = draws.uniform("place")  # of the window still to go
    everyone = torch.arange(len(x), device=x.device)
    z = torch.lerp(z1, z0, share[:, None, None, None])
    return {"window": Lesson(everyone, z, upper - share * d, d, _along(budget, z1 - z0), 1.0)}


LOSSES: Mapping[str, DistilLoss] = {"split": split, "perflow": perflow}
"""By their names in a preset."""


def budgets(draws: Draws, section: DistilSection) -> tuple[Tensor, Tensor]:
    """Forwards per picture (B,) float that each sample is a lesson for, and the place (B,) in [0, 1) that says so.

    Places are multiples of the golden ratio: any part of a global batch has its share of every budget, at every step.
    """
    place = (draws.positions.double() * _GOLDEN % 1).float()
    found = torch.zeros_like(place)
    below = 0.0
    for budget, share in section.shares.items():
        found = torch.where(place >= below, float(budget), found)
        below += share
    return found, place


def times_and_steps(budget: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """t and d (B,) each, d = 1/budget ≤ t ≤ 1: mostly the times of the budget's sampler, else anywhere."""
    d = 1 / budget
    place = draws.uniform("place")
    on_grid = (torch.floor(place * budget) + 1) / budget  # a multiple of d in (0, 1]
    t = torch.where(draws.uniform("on grid") < ON_GRID, on_grid, d + place * (1 - d))
    return t, d


def guided_velocity(teacher: DiT, z: Tensor, t: Tensor, given: Given) -> Tensor:
    """The teacher's velocity v(n) + w (v(y) - v(n)), float32."""
    if not len(z):  # a microbatch may have no such lesson
        return z
    text, length = [given.text, given.negative], [given.text_length, given.negative_length]
    both = teacher(
        *(torch.cat([part, part]) for part in (z, t, given.masked, given.mask)), torch.cat(text), torch.cat(length)
    )
    conditional, away = both.float().chunk(2)
    return flow.guide(conditional, away, given.guidance)


def average_velocity(student: nn.Module, z: Tensor, t: Tensor, d: Tensor, given: Given) -> Tensor:
    """What the student says, float32."""
    texts = (given.text, given.text_length)
    asked = (d, given.guidance, given.negative, given.negative_length)
    answer: Tensor = student(z, t, given.masked, given.mask, *texts, *asked)
    return answer.float()


class Negatives:
    """Texts that a student learns to be led away from: captions of other pictures, whole or a few of their words.

    text (N, V, L, E) and text_length (N, V) as a latent batch has them.
    """

    def __init__(self, text: Tensor, text_length: Tensor) -> None:
        self.text, self.length = text.flatten(0, 1), text_length.flatten(0, 1).long()

    def draw(self, draws: Draws, share: float) -> tuple[Tensor, Tensor]:
        """Text (B, L, E) and length (B,), 0 for all but `share` of the samples."""
        device = draws.positions.device
        if self.text.device != device:
            self.text, self.length = self.text.to(device), self.length.to(device)
        which = draws.integers("negative", len(self.text))  # (B,)
        full = self.length[which]
        some = draws.uniform("negative words") < 0.5
        first = torch.where(some, draws.integers("first word", full), 0)
        count = torch.where(some, 1 + draws.integers("words", full - first), full)
        place = torch.arange(self.text.shape[1], device=device)[None] + first[:, None]  # (B, L)
        text = self.text[which[:, None], place.clamp(max=self.text.shape[1] - 1)].float()  # (B, L, E)
        return text, count * (draws.uniform("with negative") < share)


def as_long(texts: Sequence[Tensor]) -> list[Tensor]:
    """Texts (B, L, E) padded to the longest L."""
    longest = max(text.shape[1] for text in texts)
    return [F.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts]


def _along(length: Tensor, velocity: Tensor) -> Tensor:
    return length[:, None, None, None] * velocity
