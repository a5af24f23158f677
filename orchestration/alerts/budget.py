"""Whether the week's budget of GPU-hours pauses automation."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from orchestration.alerts.causes import Kind, Pages, Seen, cause, holding

if TYPE_CHECKING:
    import dagster as dg

    from assets.line import Line

SCOPE = "budget:"


def budget(line: Line, instance: dg.DagsterInstance, pages: Pages, now: datetime) -> Seen:
    """What automation itself goes by, asked now: it rests also while nothing is due that would show it."""
    from orchestration.automation.budget import paused
    from orchestration.automation.gather import means

    found = means(line, instance, now)
    return budget_causes(paused(found.spent, found.budget, now), pages, now)


def budget_causes(why: str | None, pages: Pages, now: datetime) -> Seen:
    """`why`: what automation says of its rest, None while it may go on. One rest is one cause, however long it is."""
    links = {"automation": f"{pages.dagster}/automation"} if pages.dagster else {}
    title = "automation is paused: the week's budget of GPU-hours is spent"
    return holding(SCOPE, [cause(Kind.BUDGET, f"{SCOPE}week", title, why, now, links)] if why else [])
