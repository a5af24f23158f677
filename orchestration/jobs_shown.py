"""`backdrop jobs list`, `show`, `log`, `cancel`: the listing of `orchestration.job_list` as words and documents."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from infra.errors import BackdropError
from infra.settings import Settings
from orchestration.job_list import every_job, find_job, log_lines, places
from orchestration.screen import moment, plain, show_table

_LOG_END = 20


def show_jobs(settings: Settings, console: Console, limit: int, running: bool) -> dict[str, Any]:
    """The newest, or those that have not ended."""
    every = [row for _, row in every_job(places(settings))]
    rows = [plain(row) for row in every if not (running and row.ended)][:limit]
    lines = [
        {
            "job": row["key"],
            "state": row["state"] + ("" if row["watched"] or row["state"] != "running" else ", nobody hears it"),
            "where": row["where"],
            "since (UTC)": moment(row["started_at"]),
            "try": row["attempt"],
            "process": row["process"],
            "why": row["said"],
        }
        for row in rows
    ]
    show_table(console, lines, whole=("state", "where", "since (UTC)", "try", "process"))
    if not rows:
        console.print("no job runs" if running else "there has been no job")
    elif not running and len(rows) < len(every):
        console.print(f"and {len(every) - len(rows)} more; --limit shows them")
    return {"jobs": rows, "total": len(every)}


def show_job(settings: Settings, console: Console, key: str) -> dict[str, Any]:
    """One of them, with the end of its log."""
    where = places(settings)
    _, row = find_job(where, key)
    document = plain(row)
    for name, value in document.items():
        if value not in (None, ""):
            console.print(f"{name.replace('_', ' '):<11} {escape(str(value))}", highlight=False, soft_wrap=True)
    try:
        end = list(log_lines(where, row.key, _LOG_END, 0, follow=False))
    except BackdropError:
        end = []
    for line in end:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    return {**document, "log_end": end}


def show_log(settings: Settings, console: Console, key: str, lines: int, rank: int, follow: bool) -> dict[str, Any]:
    """What it printed."""
    where = places(settings)
    _, row = find_job(where, key)
    found = []
    for line in log_lines(where, row.key, lines, rank, follow):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        if not follow:
            found.append(line)
    return {"key": row.key, "log": row.log, "lines": found}


def cancel_job(settings: Settings, console: Console, key: str) -> dict[str, Any]:
    """Ends one. It may save first, so that the same job goes on from there when it is asked for again."""
    where = places(settings)
    place, row = find_job(where, key)
    if row.ended:
        raise BackdropError(f"{row.key} does not run: it is {row.state}", "`backdrop jobs list --running` names others")
    with console.status(f"ending {escape(row.key)}, which may save first"):
        place.cancel(row)
    console.print(f"{row.key} is cancelled; asked for again, it goes on from what it saved", highlight=False)
    return {"key": row.key, "was": row.state, "state": "cancelled"}
