"""What the tests of alerts share."""

from __future__ import annotations

from datetime import UTC, datetime

from infra.catalog.rows import Alert
from orchestration.alerts.causes import Kind, Pages, Seen

PAGES = Pages("http://dagster", "http://mlflow", "https://wiki/runbook.md")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def alert(number: int, at: datetime = NOON, kind: Kind = Kind.RUN_FAILED) -> Alert:
    return Alert(f"{kind}:{number}", kind, f"number {number}", "", at, noticed_at=at, id=number)


def begin_and_end(open_causes: set[str], seen: Seen) -> list[str]:
    """What the catalog does of it; the causes that begin."""
    new = [one.cause for one in seen.causes if one.cause not in open_causes]
    open_causes.update(new)
    if seen.current is not None:
        open_causes -= {one for one in open_causes if one.startswith(seen.scope) and one not in seen.current}
    return new
