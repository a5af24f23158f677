"""A week's budget of GPU-hours: what was spent in the last seven days, whether that pauses automation, and until when.

On a cluster the hours are those that a job's pods held GPUs. Elsewhere nobody counts GPUs, and they are the hours that
the job itself measured, once per rank: also on a CPU, where the machine's own hours are what is scarce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Spent:
    """What one job took, counted when it ended."""

    at: datetime
    hours: float


def hours_of(metadata: Mapping[str, Any]) -> float:
    """What a materialisation's own job took; nothing where a result was used again."""
    if metadata.get("reused"):
        return 0.0
    if "gpu_seconds" in metadata:
        return float(metadata["gpu_seconds"]) / 3600
    return float(metadata.get("seconds", 0.0)) * float(metadata.get("ranks", 1)) / 3600


def total(spent: Sequence[Spent], now: datetime) -> float:
    """The hours of the last seven days."""
    return sum(one.hours for one in spent if one.at > now - WEEK)


def paused(spent: Sequence[Spent], budget: float | None, now: datetime) -> str | None:
    """Why automation rests, in one sentence; None where it may go on."""
    if budget is None:
        return None
    used = total(spent, now)
    if used < budget:
        return None
    free = frees_at(spent, budget, now)
    said = f"paused by the budget: {used:.1f} GPU-hours were spent in the last seven days, and {budget:g} are allowed"
    return f"{said}; it goes on at {clock(free)}" if free else f"{said} (BACKDROP_GPU_HOURS_PER_WEEK)"


def frees_at(spent: Sequence[Spent], budget: float, now: datetime) -> datetime | None:
    """When so much will lie more than seven days back that the rest is within the budget; None: never."""
    if budget <= 0:
        return None
    recent = sorted((one for one in spent if one.at > now - WEEK), key=lambda one: one.at)
    left = sum(one.hours for one in recent)
    for one in recent:
        if left < budget:
            break
        left -= one.hours
        now = one.at + WEEK
    return now


def clock(at: datetime) -> str:
    """A moment as it is told everywhere in these reasons."""
    return at.strftime("%a %Y-%m-%d %H:%M UTC")
