"""Clips gradients, and stops a step that is not finite before it reaches the weights, with its batch saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from infra.errors import BackdropError
from infra.jobs.folder import BROKEN_BATCH
from infra.jobs.ranks import Place
from training import ranks
from training._compat.composer import Callback, Logger, State
from training.composer_model import Batch, LossModel

NAMED = 8
"""So many ids of a batch stand in the message; all of them in the file."""
ROWS = 64


class Gradients(Callback):
    """`ids(batch)` names a batch's samples. The batch of a broken step goes to `folder`."""

    def __init__(
        self,
        model: LossModel,
        stage: str,
        total: int,
        clip: float,
        folder: Path,
        here: Place,
        ids: Callable[[Batch], Sequence[str]],
    ) -> None:
        self.model, self.stage, self.total, self.clip = model, stage, total, clip
        self.folder, self.here, self.ids = folder, here, ids

    def batch_start(self, state: State, logger: Logger) -> None:
        self.model.step = int(state.timestamp.batch)

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Gradients are whole and the optimiser has not run yet: the place to stop a broken step."""
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        total = _total_norm(gradients)
        norm = total.full_tensor() if isinstance(total, DTensor) else total
        outputs = self.model.take_outputs()
        self.model.measured = {**outputs, "gradient_norm": norm}
        values = {"loss": outputs["loss"].item(), "gradient_norm": norm.item()}
        if values["gradient_norm"] > self.clip:  # else it would be a pass over all weights to multiply them by 1
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip, total)
        broken = {name: value for name, value in values.items() if not math.isfinite(value)}
        if ranks.anyone(bool(broken), norm.device):
            self._stop(state, broken)

    def _stop(self, state: State, broken: dict[str, float]) -> None:
        """Raises on every rank; the message names the batch of the first rank whose own loss is broken."""
        step = self.model.step
        suffix = f"-rank-{self.here.rank}" if self.here.ranks > 1 else ""
        path = self.folder / f"{BROKEN_BATCH}{self.stage}-step-{step:08d}{suffix}.safetensors"
        names = list(self.ids(state.batch))
        _save(path, state.batch, names)
        everyone = ranks.everyones((broken, str(path), names))
        broken, where, names = next((said for said in everyone if "loss" in said[0]), everyone[0])
        name, value = next(iter(broken.items()), ("gradient_norm", math.nan))
        samples = f" (samples {', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})" if names else ""
        raise BackdropError(
            f"{self.stage}: {name} became {value} at step {step} of {self.total}. Its batch{samples} is in {where}",
            "look at that batch for values that are not finite; without any, lower this stage's learning_rate in the "
            "preset. Run again: the last good checkpoint is kept.",
        )


def _total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all gradients. On a CPU one core takes a tensor's norm, and all cores its rows' norms."""
    if any(isinstance(grad, DTensor) or grad.device.type != "cpu" for grad in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    rows = [grad.reshape(ROWS if grad.numel() % ROWS == 0 else 1, -1) for grad in gradients]
    return torch.linalg.vector_norm(torch.cat([torch.linalg.vector_norm(part, dim=1) for part in rows]))


def _save(path: Path, batch: Batch, ids: Sequence[str]) -> None:
    tensors: dict[str, Tensor] = {name: value.detach().cpu().contiguous() for name, value in batch.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"ids": "\n".join(ids)})
