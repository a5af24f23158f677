"""The thin adapter between a pure loss function and Composer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training._compat.composer import ComposerModel
from training.draws import Draws
from training.feed import Batch

Loss = Callable[[nn.Module, Batch, Draws], Mapping[str, Tensor]]
"""loss(model, batch, draws) → named scalars, of which "loss" is minimised. All its random numbers come from `draws`."""


class LossModel(ComposerModel):
    """Composer's view of a model and its loss. Draws depend on the run's seed, the step and the sample's place.

    `scale` multiplies what is differentiated, not what is reported.
    """

    def __init__(self, model: nn.Module, loss: Loss, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.seed, self.scale = seed, scale
        self.step = 0
        self.measured: dict[str, Tensor] = {}
        """What the callbacks measured of the step under way, by name."""
        self._loss = loss
        self._total: int | None = None
        self._parts: list[tuple[int, Mapping[str, Tensor]]] = []

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        draws = Draws.of(batch, self.seed, self.step, self._total)
        self._total = draws.total  # all global batches of a run are of one size
        outputs = self._loss(self.model, batch, draws)
        detached = {name: value.detach().float() for name, value in outputs.items()}
        self._parts.append((size_of(batch), detached))
        return outputs

    def loss(self, outputs: Mapping[str, Tensor], batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        return outputs["loss"] if self.scale == 1 else self.scale * outputs["loss"]

    def take_outputs(self) -> dict[str, Tensor]:
        """The step's outputs, averaged over its microbatches; forgotten with this call."""
        parts, self._parts = self._parts, []
        total = sum(size for size, _ in parts)
        if len(parts) == 1:
            return dict(parts[0][1])
        shares = [(size / total, outputs) for size, outputs in parts]
        return {name: torch.stack([share * outputs[name] for share, outputs in shares]).sum(0) for name in parts[0][1]}


def size_of(batch: Mapping[str, Tensor]) -> int:
    """How many samples a batch holds."""
    return len(next(iter(batch.values())))
