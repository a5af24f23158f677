"""From causes to the message that a person reads: what happened, since when, where to look, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from infra.catalog.rows import Alert
from infra.files import canonical_json, sha256_bytes
from infra.notify import Notice
from orchestration.alerts.causes import FIRST, MANY, Kind, Pages

_LISTED = 10


def notice_of(alerts: Sequence[Alert], pages: Pages) -> Notice:
    """One message about one alert, or about many of a kind. Its key follows from theirs."""
    return _single(alerts[0], pages) if len(alerts) == 1 else _digest(alerts, pages)


def when(at: datetime) -> str:
    """In UTC: the readers may sit anywhere."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _single(alert: Alert, pages: Pages) -> Notice:
    kind = Kind(alert.kind)
    lines = [f"[Backdrop] {alert.title}", f"since {when(alert.since)}"]
    lines += [alert.detail] if alert.detail else []
    lines += [f"{name}: {where}" for name, where in alert.links.items()]
    lines += [f"what to do: {FIRST[kind]}", f"runbook: {pages.section(kind)}"]
    fields = {
        "kind": alert.kind,
        "title": alert.title,
        "detail": alert.detail,
        "since": alert.since.isoformat(),
        "count": 1,
        "causes": [alert.cause],
        "links": dict(alert.links),
        "what_to_do": FIRST[kind],
        "runbook": pages.section(kind),
    }
    return Notice(f"{alert.cause}#{alert.id}", f"[Backdrop] {alert.title}", "\n".join(lines), fields)


def _digest(alerts: Sequence[Alert], pages: Pages) -> Notice:
    kind = Kind(alerts[0].kind)
    first, last = min(one.since for one in alerts), max(one.since for one in alerts)
    title = f"{len(alerts)} {MANY[kind]}"
    lines = [f"[Backdrop] {title}", f"between {when(first)} and {when(last)}"]
    lines += [f"• {one.title}" for one in alerts[:_LISTED]]
    if len(alerts) > _LISTED:
        lines.append(f"• and {len(alerts) - _LISTED} more: backdrop alerts --limit {len(alerts)}")
    links = {"runs": f"{pages.dagster}/runs"} if pages.dagster and kind == Kind.RUN_FAILED else {}
    lines += [f"{name}: {where}" for name, where in links.items()]
    lines += [f"what to do: {FIRST[kind]}", f"runbook: {pages.section(kind)}"]
    fields = {
        "kind": kind.value,
        "title": title,
        "detail": "",
        "since": first.isoformat(),
        "count": len(alerts),
        "causes": [one.cause for one in alerts[:100]],
        "links": links,
        "what_to_do": FIRST[kind],
        "runbook": pages.section(kind),
    }
    which = sha256_bytes(canonical_json([one.id for one in alerts]))[:16]
    return Notice(f"digest:{kind}#{which}", f"[Backdrop] {title}", "\n".join(lines), fields)
