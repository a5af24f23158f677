"""Moves the weight average after every step, and carries it through checkpoints."""

from __future__ import annotations

from typing import Any

from training import sharding
from training._compat.composer import Callback, Logger, State
from training.ema import Ema


class Averaging(Callback):
    """`steps` of the whole run; `whole`: sharded weights are gathered for a checkpoint that is one file."""

    def __init__(self, ema: Ema[Any], steps: int, whole: bool) -> None:
        self.ema, self.steps, self.whole = ema, steps, whole

    def before_load(self, state: State, logger: Logger) -> None:
        sharding.mirror(self.ema.model, self.ema.module)

    def batch_end(self, state: State, logger: Logger) -> None:
        self.ema.update(last=int(state.timestamp.batch) == self.steps)

    def state_dict(self) -> dict[str, Any]:
        weights = self.ema.module.state_dict()
        return {"updates": self.ema.updates, "weights": sharding.gathered(weights) if self.whole else weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.updates = state["updates"]
        sharding.load(self.ema.module, state["weights"])
