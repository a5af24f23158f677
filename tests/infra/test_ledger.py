"""The promotion ledger on a real PostgreSQL: it only grows, and one process at a time moves an alias."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError, IntegrityError

from infra.catalog import Catalog
from infra.catalog.ledger import APPROVED, DONE, FOUND, INTENT, REJECTED, Entry
from infra.errors import ServiceError

pytestmark = pytest.mark.integration
MODEL, ALIAS = "backdrop-engine", "champion"


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    catalog = Catalog(catalog_url)
    yield catalog
    catalog.close()


def entry(kind: str, **fields: object) -> Entry:
    return Entry(kind, MODEL, ALIAS, **fields)  # type: ignore[arg-type]


def test_rows_come_back_as_they_went_in(catalog: Catalog) -> None:
    evidence = {"p": 0.01, "worst": float("nan"), "rows": [{"low": float("-inf")}]}
    given = entry(DONE, from_version="1", to_version="2", bundle="ab", reason="better", evidence=evidence, run="run-1")
    written = catalog.add_entry(replace(given, actor="anna", verified=True))
    assert written.id > 0
    assert written.at is not None
    assert written.evidence == {"p": 0.01, "worst": None, "rows": [{"low": None}]}
    assert catalog.entries(MODEL) == [written]
    assert catalog.entries(MODEL, "challenger") == catalog.entries("another") == []
    assert (written.who, entry(DONE, actor="bo").who) == ("anna", "unverified actor bo")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET reason = 'none'",
        "DELETE FROM ledger",
        "DELETE FROM ledger WHERE id = -1",
        "TRUNCATE ledger",
    ],
)
def test_the_database_refuses_every_change(catalog: Catalog, statement: str) -> None:
    written = catalog.add_entry(entry(DONE, to_version="1"))
    with pytest.raises(DatabaseError, match="the ledger only grows"), catalog.engine.begin() as connection:
        connection.execute(text(statement))
    assert catalog.entries(MODEL) == [written]


def test_an_intent_is_open_until_one_row_closes_it(catalog: Catalog) -> None:
    first, second = catalog.add_entry(entry(INTENT, to_version="1")), catalog.add_entry(entry(INTENT, to_version="2"))
    assert catalog.open_intents(MODEL, ALIAS) == [first, second]
    catalog.add_entry(entry(DONE, to_version="1", intent=first.id))
    assert catalog.open_intents(MODEL, ALIAS) == [second]
    with pytest.raises(IntegrityError):
        catalog.add_entry(entry("abandoned", intent=first.id))


def test_an_alias_is_where_its_newest_settled_row_says(catalog: Catalog) -> None:
    rows = [catalog.add_entry(entry(kind, to_version=kind)) for kind in (INTENT, DONE, "refused", FOUND, "abandoned")]
    assert catalog.settled(MODEL, ALIAS) == [rows[3], rows[1]]
    assert catalog.settled(MODEL, ALIAS, since=rows[1].id) == [rows[3]]


def test_the_newest_judgement_of_a_bundle_counts(catalog: Catalog) -> None:
    assert catalog.judgement(MODEL, "ab") is None
    catalog.add_entry(entry(APPROVED, bundle="ab"))
    newest = catalog.add_entry(entry(REJECTED, bundle="ab"))
    catalog.add_entry(entry(APPROVED, bundle="cd"))
    assert catalog.judgement(MODEL, "ab") == newest


def test_one_at_a_time_holds_an_alias(catalog: Catalog) -> None:
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with catalog.alias_lock(MODEL, ALIAS):
            held.set()
            go.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    with pytest.raises(ServiceError, match="held by another promotion"), catalog.alias_lock(MODEL, ALIAS, seconds=0.1):
        pass
    with catalog.alias_lock(MODEL, "challenger", seconds=0.1), catalog.alias_lock("other", ALIAS, seconds=0.1):
        catalog.add_entry(entry(DONE))  # rows are written while locks are held
    go.set()
    holder.join(20)
    with catalog.alias_lock(MODEL, ALIAS, seconds=5):
        pass


def test_a_lock_goes_with_its_holder(catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError), catalog.alias_lock(MODEL, ALIAS):
        raise ZeroDivisionError
    with catalog.alias_lock(MODEL, ALIAS, seconds=1):
        pass
