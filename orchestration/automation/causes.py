"""Causes: what asks for a run, and whether it is asked for again. Pure.

A cause has a key that is the same at every look, and every run carries the keys of those that it was started for. So
one cause starts one run; one that failed is tried again after a while that doubles, and one that was cancelled is not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestration.automation.budget import clock

FIRST, LONGEST = timedelta(hours=1), timedelta(days=7)
WAITING, DONE, FAILED, CANCELLED = "waiting", "done", "failed", "cancelled"


@dataclass(frozen=True)
class Cause:
    """`key`: one word without blanks or commas; `why`: half a sentence for people."""

    key: str
    why: str


@dataclass(frozen=True)
class Run:
    """A run of the past. `at`: when it ended, or began where it still runs."""

    id: str
    job: str
    state: str
    at: datetime
    causes: tuple[str, ...] = ()
    partition: str = ""

    @property
    def name(self) -> str:
        return f"run {self.id[:8]}"


def backoff(failures: int) -> timedelta:
    """How long after the last of so many failures: an hour, doubling, at most a week."""
    return min(FIRST * 2 ** (min(failures, 12) - 1), LONGEST) if failures else timedelta()


def answered(cause: Cause, runs: Sequence[Run], now: datetime) -> str | None:
    """Why the cause asks for nothing now: somebody is at it, it was done, or it failed not long ago."""
    mine = _runs_of(cause, runs)
    if not mine:
        return None
    last = mine[-1]
    if last.state == WAITING:
        return f"{last.name} is at it since {clock(last.at)}"
    if last.state == DONE:
        return f"{last.name} did so, {clock(last.at)}"
    if last.state == CANCELLED:
        return f"{last.name} was cancelled, {clock(last.at)}; start it by hand where it is wanted after all"
    failures = sum(run.state == FAILED for run in mine)
    again = last.at + backoff(failures)
    if now < again:
        times = "failed" if failures == 1 else f"failed {failures} times"
        return f"{last.name} {times}, last {clock(last.at)}; it is tried again from {clock(again)}"
    return None


def settled(cause: Cause, runs: Sequence[Run]) -> bool:
    """Whether its last run was done, or cancelled: neither is ever tried again."""
    mine = _runs_of(cause, runs)
    return bool(mine) and mine[-1].state in (DONE, CANCELLED)


def attempt(keys: Collection[str], runs: Sequence[Run]) -> int:
    """How many runs these causes have had: it goes into the run's key, so that another attempt is another run."""
    return sum(not set(keys).isdisjoint(run.causes) for run in runs)


def _runs_of(cause: Cause, runs: Sequence[Run]) -> list[Run]:
    """The oldest first."""
    return sorted((run for run in runs if cause.key in run.causes), key=lambda run: run.at)
