"""The catalog on what people have to be told of, and on the messages about it.

    begin ─► (alert, waiting for its destinations) ─► write ─► (message) ─► delivered: sent_at
                                                                     └► failed: next_at, later each time

A message is in the table before it is sent for the first time, so none is lost with the process that sends it. One that
was sent and not marked, because the process was killed between the two, is sent once more, with the same key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.connection import CatalogDatabase
from infra.catalog.models import AlertMessageRecord, AlertRecord
from infra.catalog.rows import Alert, AlertMessage

_ALERTS, _MESSAGES = AlertRecord.__table__, AlertMessageRecord.__table__
_LOCK = "backdrop alerts"
# What still holds and was never told there: a destination that was added since hears of it too. So does one that has
# taken something after a message was given up: it is there again.
_JOIN = """
    UPDATE alerts SET waiting = waiting || to_jsonb(CAST(:name AS text))
    WHERE ended_at IS NULL AND kind = ANY(:kinds) AND NOT waiting ? :name AND NOT EXISTS
        (SELECT 1 FROM alert_messages m WHERE m.destination = :name AND m.alerts @> to_jsonb(alerts.id)
            AND (m.sent_at IS NOT NULL OR m.written_at > :since OR m.written_at >=
                coalesce((SELECT max(sent_at) FROM alert_messages WHERE destination = :name), '-infinity') - :tried))
"""
_DROP = """
    UPDATE alerts SET waiting = waiting - CAST(:name AS text) WHERE waiting <> '[]' AND waiting ? :name
        AND (ended_at < :before OR kind = ANY(:once) AND noticed_at < :before)
"""


class Alerts(CatalogDatabase):
    """Times are the caller's: `now` is when it looked."""

    @contextlib.contextmanager
    def alerts_lock(self) -> Iterator[bool]:
        """Whether nobody else is noticing and sending now. The lock goes with the connection, also after kill -9."""
        with self._transaction() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            query = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
            yield bool(connection.scalar(query, {"name": _LOCK}))

    # ── causes ────────────────────────────────────────────────────────────────────────────────────────────────

    def begin_alerts(self, alerts: Collection[Alert], waiting: Collection[str], now: datetime) -> int:
        """Writes down those whose cause is not open already; how many these were."""
        rows = [
            {
                "cause": one.cause,
                "kind": one.kind,
                "title": one.title,
                "detail": one.detail,
                "links": dict(one.links),
                "since": one.since,
                "noticed_at": now,
                "waiting": sorted(waiting),
            }
            for one in alerts
        ]
        if not rows:
            return 0
        statement = insert(AlertRecord).values(rows)
        statement = statement.on_conflict_do_nothing(index_elements=["cause"], index_where=text("ended_at IS NULL"))
        with self._transaction() as connection:
            return len(connection.execute(statement.returning(_ALERTS.c.id)).all())

    def end_alerts(self, scope: str, kinds: Collection[str], still: Collection[str], now: datetime) -> int:
        """Ends the open causes of these kinds that begin with `scope` and are none of `still`; how many these were."""
        c = _ALERTS.c
        open_ones = c.ended_at.is_(None) & c.kind.in_(list(kinds))
        over = open_ones & func.starts_with(c.cause, scope) & c.cause.not_in(list(still))
        with self._transaction() as connection:
            return connection.execute(update(AlertRecord).where(over).values(ended_at=now)).rowcount

    def written_causes(self, causes: Collection[str]) -> set[str]:
        """Those of these causes that are written down, open or not."""
        c = _ALERTS.c
        with self._transaction() as connection:
            return set(connection.scalars(select(c.cause).where(c.cause.in_(list(causes)))))

    def join_alerts(self, destination: str, kinds: Collection[str], now: datetime, tried: timedelta) -> None:
        """What is open of these kinds waits for this destination too. `tried`: how long a message is."""
        values = {"name": destination, "kinds": sorted(kinds), "since": now - tried, "tried": tried}
        with self._transaction() as connection:
            connection.execute(text(_JOIN), values)

    def drop_waiting(self, destination: str, once: Collection[str], before: datetime) -> None:
        """What was over before then waits for this destination no longer; of kinds that happen `once`, what was
        noticed before."""
        with self._transaction() as connection:
            connection.execute(text(_DROP), {"name": destination, "once": sorted(once), "before": before})

    def waiting_alerts(self, destination: str) -> list[Alert]:
        """Those that no message to this destination is written for, oldest first."""
        c = _ALERTS.c
        return self._alerts(select(*c).where(c.waiting != [], c.waiting.contains([destination])).order_by(c.id))

    def newest_alerts(self, limit: int) -> list[Alert]:
        """Newest first."""
        return self._alerts(select(*_ALERTS.c).order_by(_ALERTS.c.id.desc()).limit(limit))

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────────

    def write_message(
        self, destination: str, kind: str, alerts: Collection[int], notice: Mapping[str, Any], now: datetime
    ) -> None:
        """Writes down a message about these alerts, which wait for it no longer."""
        values = {"destination": destination, "kind": kind, "alerts": sorted(alerts), "notice": dict(notice)}
        c = _ALERTS.c
        told = update(AlertRecord).where(c.id.in_(list(alerts))).values(waiting=c.waiting.op("-")(destination))
        with self._transaction() as connection:
            connection.execute(insert(AlertMessageRecord).values(**values, written_at=now, next_at=now))
            connection.execute(told)

    def messages_since(self, destination: str, kind: str, since: datetime) -> list[AlertMessage]:
        """What was written there about alerts of a kind, oldest first."""
        c = _MESSAGES.c
        query = select(*c).where(c.destination == destination, c.kind == kind, c.written_at > since)
        return self._messages(query.order_by(c.id))

    def due_messages(self, destination: str, since: datetime, now: datetime, limit: int) -> list[AlertMessage]:
        """Messages that are to be sent now and were written after `since`, the one that has waited longest first."""
        c = _MESSAGES.c
        query = select(*c).where(c.destination == destination, c.sent_at.is_(None), c.written_at > since)
        return self._messages(query.where(c.next_at <= now).order_by(c.next_at, c.id).limit(limit))

    def messages_about(self, alerts: Collection[int]) -> list[AlertMessage]:
        """The messages about any of these alerts."""
        wanted = [_MESSAGES.c.alerts.contains([one]) for one in alerts]
        if not wanted:
            return []
        query = select(*_MESSAGES.c)
        first, *more = wanted
        for one in more:
            first = first | one
        return self._messages(query.where(first).order_by(_MESSAGES.c.id))

    def message_sent(self, message: int, now: datetime) -> None:
        """It was taken: it is not sent again."""
        self._update_message(message, sent_at=now, problem="")

    def message_failed(self, message: int, problem: str, next_at: datetime) -> None:
        """It was not taken, and is tried again then."""
        self._update_message(message, next_at=next_at, problem=problem)

    def _update_message(self, message: int, **values: Any) -> None:
        c = _MESSAGES.c
        with self._transaction() as connection:
            connection.execute(
                update(AlertMessageRecord).where(c.id == message).values(attempts=c.attempts + 1, **values)
            )

    def _alerts(self, query: Any) -> list[Alert]:
        with self._transaction() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return [Alert(**{**row, "waiting": tuple(row["waiting"])}) for row in rows]

    def _messages(self, query: Any) -> list[AlertMessage]:
        with self._transaction() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return [AlertMessage(**{**row, "alerts": tuple(row["alerts"])}) for row in rows]
