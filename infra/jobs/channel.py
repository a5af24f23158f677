"""What a job speaks into, and the plainest implementation: the console of whoever runs it by hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class Channel(Protocol):
    """Carries what a job says while it works. ``close`` returns once all of it can be read by others."""

    def send(self, payload: Mapping[str, Any]) -> None: ...

    def log(self, level: str, message: str) -> None: ...

    def close(self) -> None: ...


class SilentChannel:
    """For a process beside the one that speaks for the job."""

    def send(self, payload: Mapping[str, Any]) -> None:
        pass

    def log(self, level: str, message: str) -> None:
        pass

    def close(self) -> None:
        pass


class ConsoleChannel:
    """For a job run by hand: progress as log lines, at most one every ``interval`` seconds for each stage.

    Log lines are not repeated here: the console already shows them.
    """

    def __init__(self, interval: float = 2.0) -> None:
        self._interval = interval
        self._shown: dict[str, float] = {}

    def send(self, payload: Mapping[str, Any]) -> None:
        kind = payload.get("kind")
        if kind == "progress":
            self._show_progress(payload)
        elif kind == "metrics":
            values = ", ".join(f"{name} {value:.5g}" for name, value in payload["values"].items())
            _log.debug("step %s: %s", payload["step"], values)
        elif kind in ("picture", "result"):
            _log.info("%s: %s", kind, payload["key"])

    def log(self, level: str, message: str) -> None:
        pass

    def close(self) -> None:
        pass

    def _show_progress(self, payload: Mapping[str, Any]) -> None:
        stage, done, total = payload["stage"], payload["done"], payload["total"]
        now = time.monotonic()
        if done < total and now - self._shown.get(stage, -self._interval) < self._interval:
            return
        self._shown[stage] = now
        _log.info("%s: %g of %g %s", stage, done, total, payload["unit"])
