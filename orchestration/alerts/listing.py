"""`backdrop alerts`: what was told to whom, and whether telling works."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import BackdropError
from infra.settings import Settings
from orchestration.alerts.causes import GIVE_UP

if TYPE_CHECKING:
    from infra.catalog.alerts import Alerts
    from infra.catalog.rows import Alert, AlertMessage
    from infra.notify import Notice


def newest(catalog: Alerts, limit: int) -> list[dict[str, Any]]:
    """The newest alerts as plain values, newest first, with what became of each message."""
    found = catalog.newest_alerts(limit)
    messages = catalog.messages_about([one.id for one in found])
    return [_row(one, [message for message in messages if one.id in message.alerts]) for one in found]


def show_alerts(settings: Settings, console: Console, limit: int) -> list[dict[str, Any]]:
    """The command; returns what it shows."""
    from assets.line import Line
    from orchestration.alerts.causes import ONCE
    from orchestration.alerts.sensor import NOWHERE
    from orchestration.services import services

    with services(settings, console) as environment:
        os.environ.update(environment)
        rows = newest(Line().catalog, limit)
    if not (settings.alert_webhook or settings.alert_email):
        console.print(f"[yellow]{escape(NOWHERE)}[/yellow]", highlight=False)
    if not rows:
        console.print("there has been nothing to tell")
        return rows
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for column in ("since (UTC)", "ended", "kind", "what", "told"):
        table.add_column(column, overflow="fold")
    for row in rows:
        ended = _short(row["ended_at"]) or ("" if row["kind"] in ONCE else "no")
        table.add_row(_short(row["since"]), ended, row["kind"], escape(row["title"]), escape(row["told"]))
    console.print(table)
    return rows


def send_test(settings: Settings, console: Console) -> None:
    """One message to every destination, now. Raises BackdropError where one has not taken it."""
    from infra.notify import destinations
    from orchestration.alerts.sensor import NOWHERE

    targets = destinations(settings)
    if not targets:
        raise BackdropError(NOWHERE.partition(":")[0], NOWHERE.partition(": ")[2])
    notice, failed = trial(settings), []
    for target in targets:
        try:
            target.send(notice)
        except BackdropError as error:
            failed.append(f"{target.name}: {error.what}")
        else:
            console.print(f"{target.name}: taken", highlight=False)
    if failed:
        raise BackdropError("; ".join(failed), "correct the settings that begin with BACKDROP_ALERT_ or BACKDROP_SMTP")


def trial(settings: Settings) -> Notice:
    """A message that says what it is."""
    from infra.notify import Notice
    from orchestration.alerts.sensor import pages_of

    now = datetime.now(UTC)
    text = (
        f"[Backdrop] a test: alerts arrive here\nsent {now:%Y-%m-%d %H:%M} UTC\nrunbook: {pages_of(settings).runbook}"
    )
    fields = {"kind": "test", "title": "a test: alerts arrive here", "since": now.isoformat(), "count": 0, "causes": []}
    return Notice(f"test#{secrets.token_hex(8)}", "[Backdrop] a test: alerts arrive here", text, fields)


def _row(alert: Alert, messages: list[AlertMessage]) -> dict[str, Any]:
    told = [_told(one) for one in messages] + [f"{name}: waits for others" for name in alert.waiting]
    return {
        "cause": alert.cause,
        "kind": alert.kind,
        "title": alert.title,
        "detail": alert.detail,
        "since": alert.since.isoformat(),
        "ended_at": alert.ended_at.isoformat() if alert.ended_at else None,
        "links": dict(alert.links),
        "told": "; ".join(told) or "nobody",
    }


def _told(message: AlertMessage) -> str:
    many = f" with {len(message.alerts) - 1} others" if len(message.alerts) > 1 else ""
    if message.sent_at is not None:
        return f"{message.destination}{many}"
    tries = f", tried {message.attempts} times: {message.problem}" if message.attempts else ""
    given_up = datetime.now(UTC) - message.written_at >= GIVE_UP
    return f"{message.destination}{many}: {'given up' if given_up else 'not yet'}{tries}"


def _short(at: str | None) -> str:
    return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M") if at else ""
