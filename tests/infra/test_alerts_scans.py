"""What the alerts' sensor asks the catalog twice a minute does not read what was told in the years before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from infra.catalog import Catalog
from infra.catalog.rows import Alert

pytestmark = pytest.mark.integration
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
ROWS = 20_000
_ALERTS = """
    INSERT INTO alerts (cause, kind, title, detail, links, since, noticed_at, ended_at, waiting)
    SELECT CASE WHEN n % 2 = 0 THEN 'run-failed:' ELSE 'drift:d' END || n, CASE WHEN n % 2 = 0 THEN 'run-failed' ELSE
        'drift' END, 'a title', '', '{}', :at, :at, CASE WHEN n % 2 = 1 THEN cast(:at AS timestamptz) END, '[]'
    FROM generate_series(1, :rows) n
"""
_MESSAGES = """
    INSERT INTO alert_messages (destination, kind, alerts, notice, written_at, next_at, sent_at)
    SELECT 'webhook', 'drift', jsonb_build_array(n), '{}', cast(:at AS timestamptz) + n * interval '1 second', :at,
        CASE WHEN n % 3 > 0 THEN cast(:at AS timestamptz) END
    FROM generate_series(1, :rows) n
"""


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    """Two years after twenty thousand alerts, a third of whose messages nobody took."""
    catalog = Catalog(catalog_url)
    with catalog.engine.begin() as connection:
        for statement in (_ALERTS, _MESSAGES):
            connection.execute(text(statement), {"rows": ROWS, "at": NOW - timedelta(days=730)})
        connection.execute(text("ANALYZE alerts, alert_messages"))
    yield catalog
    catalog.close()


def rows_read(plan: dict[str, Any]) -> float:
    """What the leaves of an analysed plan have looked at."""
    below = plan.get("Plans", [])
    mine = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return sum(rows_read(one) for one in below) or mine * plan["Actual Loops"]


def test_no_question_reads_what_was_long_ago(catalog: Catalog) -> None:
    asked: list[tuple[str, Any]] = []

    @event.listens_for(catalog.engine, "before_cursor_execute")
    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.append((statement, parameters))

    catalog.begin_alerts([Alert("drift:new", "drift", "a title", "", NOW)], ["webhook"], NOW)
    catalog.written_causes([f"run-failed:{n}" for n in range(20)])
    catalog.end_alerts("drift:", ["drift", "budget"], ["drift:new"], NOW)
    catalog.drop_waiting("webhook", ["run-failed"], NOW - timedelta(days=3))
    catalog.join_alerts("webhook", ["drift", "budget"], NOW, timedelta(days=3))
    catalog.waiting_alerts("webhook")
    catalog.messages_since("webhook", "drift", NOW - timedelta(hours=1))
    catalog.due_messages("webhook", NOW - timedelta(days=3), NOW, 20)
    [newest] = catalog.newest_alerts(1)
    catalog.messages_about([newest.id])
    event.remove(catalog.engine, "before_cursor_execute", note)
    assert len(asked) == 10
    for statement, parameters in asked:
        with catalog.engine.connect() as connection:
            [[plan]] = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalars()
            connection.rollback()
        assert rows_read(plan["Plan"]) <= 40, f"{statement}\n{plan}"
