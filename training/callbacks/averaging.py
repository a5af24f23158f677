"""Moves the weight average after every step, and carries it through checkpoints."""

from __future__ import annotations

from typing import Any

from training._compat.composer import Callback, Logger, State
from training.ema import Ema


class Averaging(Callback):
    def __init__(self, ema: Ema[Any]) -> None:
        self.ema = ema

    def batch_end(self, state: State, logger: Logger) -> None:
        self.ema.update()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.ema.updates, "weights": self.ema.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.updates = state["updates"]
        self.ema.module.load_state_dict(state["weights"])
