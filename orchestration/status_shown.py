"""The words of `backdrop status`: its document on one screen."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from orchestration.screen import moment, show_table


def show_status(console: Console, document: dict[str, Any]) -> None:
    """Services, runs, assets, models, jobs, automation, alerts; and what is not well at the end."""
    for one in document["services"]:
        colour, state = ("green", "up") if one["up"] else ("yellow", "down")
        line = f"{one['name']:<10} [{colour}]{state}[/]  {escape(one['where'])}"
        _say(console, f"{line}  {escape(one['said'])}".rstrip())
    if document["start"]:
        _say(console, f"           {document['start']}")
    _say(console, f"state      {escape(document['state'])}, preset {document['preset']}, {document['launcher']}")
    if document["as_of"] is None:
        _say(console, "nothing is remembered of this line: `make run` makes it")
    elif not document["live"]:
        _say(console, f"[yellow]what follows was so at {moment(document['as_of'])} UTC[/]; jobs are of now")
    _show_line(console, document)
    for job in document["jobs"]:
        heard = "" if job["watched"] else ", nobody hears it"
        _say(console, f"job        {escape(job['key'])} {job['state']} since {moment(job['started_at'])}{heard}")
    for one in document["alerts"] or []:
        ended = f" until {moment(one['ended_at'])}" if one["ended_at"] else ""
        _say(console, f"alert      {moment(one['since'])}{ended}  {one['kind']}: {escape(one['title'])}")
    for problem in document["problems"]:
        _say(console, f"[bold red]not well[/]   {escape(problem)}")


def _show_line(console: Console, document: dict[str, Any]) -> None:
    run = document["run"]
    if run:
        part = f"[{run['partition']}]" if run["partition"] else ""
        ended = f", ended {moment(run['ended_at'])}" if run["ended_at"] else ""
        began = f"began {moment(run['started_at'])}" if run["started_at"] else "has not begun"
        _say(console, f"newest run {run['id'][:8]} {escape(run['job'] + part)}: {run['state']}, {began}{ended}")
    rows = [_asset(one) for one in document["assets"] or []]
    show_table(console, rows, whole=("asset", "state", "made (UTC)", "version"))
    for alias in ("champion", "challenger"):
        if document["as_of"] is not None:
            _say(console, f"{alias:<10} {_model(document[alias])}")
    budget, automation = document["budget"], document["automation"]
    if budget and budget["allowed"] is not None:
        _say(console, f"budget     {budget['spent']:.1f} of {budget['allowed']:g} GPU-hours in seven days")
    if automation:
        daemon = "its daemon runs" if automation["daemon"] else "its daemon does not run"
        _say(console, f"automation on: {', '.join(automation['on']) or 'nothing'}; {daemon} (`backdrop plan` says why)")


def _asset(one: dict[str, Any]) -> dict[str, Any]:
    parts = f" {one['partitions']['made']}/{one['partitions']['of']}" if one["partitions"] else ""
    return {
        "asset": one["asset"],
        "state": one["state"] + parts,
        "made (UTC)": moment(one["at"]),
        "version": (one["data_version"] or "")[:12],
        "why": "; ".join(
            [
                *one["why"][:1],
                *([f"failed: {', '.join(one['checks_failed'])}"] if one["checks_failed"] else []),
                *([f"{len(one['checks_warned'])} warn"] if one["checks_warned"] else []),
            ]
        ),
    }


def _model(one: dict[str, Any] | None) -> str:
    if one is None:
        return "none"
    since = f" since {moment(one['since'])} by {escape(one['by'])}" if one["since"] else ""
    taint = f", [bold red]tainted[/]: {escape('; '.join(one['tainted']))}" if one["tainted"] else ", not tainted"
    return f"version {one['version']} of {one['model']}{since}{taint}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
