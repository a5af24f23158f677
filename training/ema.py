"""Exponential moving average of a model's weights: what is evaluated, exported and distilled from."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from training.sharding import own_part

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """`module` is a frozen copy whose weights follow `model` by `decay` per step; decay 0 keeps them equal.

    It moves at every `every`-th step, by as many steps' decay: a pass over all weights is not free. At the last step of
    a run it moves by what is left, so that no step is lost.
    """

    def __init__(self, model: M, decay: float, every: int = 1) -> None:
        self.decay, self.every = decay, every if decay else 1
        self.updates = 0
        self.model = model
        self.module: M = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, last: bool = False) -> None:
        """After a step, towards the model; the first steps weigh more, so that the start is forgotten."""
        self.updates += 1
        since = self.updates % self.every or self.every  # steps that it has not moved for
        if since < self.every and not last:
            return
        decay = min(self.decay, self.updates / (self.updates + 9)) ** since
        averaged = [own_part(parameter) for parameter in self.module.parameters()]
        torch._foreach_lerp_(
            averaged, [own_part(parameter).detach() for parameter in self.model.parameters()], 1 - decay
        )
        for target, source in zip(self.module.buffers(), self.model.buffers(), strict=True):
            target.copy_(source)
