"""What is heard from a job while it works.

``replayed`` is true for what an earlier reader of the same job has already been given: a restarted
orchestrator hears the job from its beginning, and must not count, draw or print those twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` in ``unit`` (images, steps …) of one ``stage`` of the job."""

    stage: str
    done: float
    total: float
    unit: str = ""
    replayed: bool = False


@dataclass(frozen=True)
class Metrics:
    """Named numbers at one ``step``."""

    values: Mapping[str, float]
    step: int
    replayed: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG in the object store; ``step`` is None for a picture of the end. ``shows``: ids of delivered images
    that can be seen in it.
    """

    name: str
    key: str
    step: int | None = None
    replayed: bool = False
    shows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Log:
    """A line of the job's log; ``level`` is debug, info, warning, error or critical."""

    level: str
    message: str
    replayed: bool = False


Event = Progress | Metrics | Picture | Log
