"""The thin adapter between a pure loss function and Composer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training._compat.composer import ComposerModel

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch, torch.Generator], Mapping[str, Tensor]]
"""loss(model, batch, generator) → named scalars, of which "loss" is minimised. All its draws use the generator."""


class LossModel(ComposerModel):
    """Composer's view of a model and its loss. Draws depend on the run's seed and the step alone."""

    def __init__(self, model: nn.Module, loss: Loss, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed
        self.step = 0
        self._loss = loss

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.step) % 2**63)
        return self._loss(self.model, batch, generator)

    def loss(self, outputs: Mapping[str, Tensor], batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        return outputs["loss"]
