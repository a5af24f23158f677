"""The catalog's promotion ledger: who moved which alias from where to where, and why. It only grows.

    intent ─► (the alias is moved) ─► done            a promotion
    intent ─► (killed before)      ─► abandoned       closed by whoever comes next
    refused · found · approved · rejected             rows of their own

An alias is where its newest settled row ('done' or 'found') says.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import aliased

from infra.catalog.connection import CatalogDatabase
from infra.catalog.models import LedgerRecord
from infra.errors import ServiceError

INTENT, DONE, ABANDONED, REFUSED, FOUND = "intent", "done", "abandoned", "refused", "found"
APPROVED, REJECTED = "approved", "rejected"
SETTLED = (DONE, FOUND)
LOCK_SECONDS = 30

_TABLE = LedgerRecord.__table__
_LOCK_NOT_AVAILABLE = "55P03"


class AliasHeld(ServiceError):
    """Somebody else is moving the alias."""


@dataclass(frozen=True)
class Entry:
    """A row of the ledger; `id` and `at` are the database's own, 0 and None until it is written.

    Versions are the registry's numbers, None where the alias was not set; `run`: the Dagster run, or empty.
    """

    kind: str
    model: str
    alias: str
    from_version: str | None = None
    to_version: str | None = None
    bundle: str = ""
    actor: str = ""
    verified: bool = False
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    intent: int | None = None
    id: int = 0
    at: datetime | None = None

    @property
    def who(self) -> str:
        """The actor as it may be shown: a name that nobody has signed for is called so."""
        return self.actor if self.verified else f"unverified actor {self.actor}".rstrip()


class Ledger(CatalogDatabase):
    """Rows are added and read, never changed."""

    @contextlib.contextmanager
    def alias_lock(self, model: str, alias: str, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """One process at a time moves an alias. The lock goes with the connection, also after kill -9.

        It is held by an idle transaction (so that a pooler between us keeps it with one server connection); rows are
        written in transactions of their own meanwhile. Raises AliasHeld when it is not free within `seconds`.
        """
        with self._transaction() as connection:
            try:
                connection.execute(text(f"SET LOCAL lock_timeout = '{int(seconds * 1000)}ms'"))
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"{model}@{alias}"}
                )
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", "") != _LOCK_NOT_AVAILABLE:
                    raise
                raise AliasHeld(
                    f"{model}@{alias} has been held by another promotion for {seconds:.0f} s",
                    "wait until it has ended, then run the same command again",
                ) from None
            yield

    def add_entry(self, entry: Entry) -> Entry:
        """Writes a row, in a transaction of its own; the row with its number and time."""
        values = {
            name: getattr(entry, name)
            for name in _TABLE.columns.keys()  # noqa: SIM118 - a column collection, no mapping
            if name not in ("id", "at")
        }
        values["evidence"] = _plain(entry.evidence)
        with self._transaction() as connection:
            row = connection.execute(insert(LedgerRecord).values(**values).returning(*_TABLE.columns)).one()
        return Entry(**row._mapping)

    def entries(self, model: str, alias: str | None = None, limit: int | None = None) -> list[Entry]:
        """The model's rows, newest first."""
        query = select(*_TABLE.columns).where(_TABLE.c.model == model).order_by(_TABLE.c.id.desc())
        if alias is not None:
            query = query.where(_TABLE.c.alias == alias)
        return self._entries(query.limit(limit))

    def settled(self, model: str, alias: str, since: int = 0) -> list[Entry]:
        """The rows that say where the alias was moved to, newest first; only those after row `since`."""
        c = _TABLE.c
        query = select(*_TABLE.columns).where(c.model == model, c.alias == alias, c.kind.in_(SETTLED), c.id > since)
        return self._entries(query.order_by(c.id.desc()))

    def entries_since(self, model: str, alias: str, at: datetime) -> list[Entry]:
        """The alias's rows from the one on that had settled it at that time, newest first."""
        c, mine = _TABLE.c, (_TABLE.c.model == model) & (_TABLE.c.alias == alias)
        settled = select(c.id).where(mine, c.kind.in_(SETTLED), c.at < at).order_by(c.id.desc()).limit(1)
        query = select(*_TABLE.columns).where(mine, c.id >= func.coalesce(settled.scalar_subquery(), 0))
        return self._entries(query.order_by(c.id.desc()))

    def open_intents(self, model: str, alias: str) -> list[Entry]:
        """Intents that nobody has closed, oldest first: whoever wrote them is at work, or was killed."""
        c, closing = _TABLE.c, aliased(LedgerRecord)
        closed = select(closing.id).where(closing.intent == c.id).exists()
        query = select(*_TABLE.columns).where(c.model == model, c.alias == alias, c.kind == INTENT, ~closed)
        return self._entries(query.order_by(c.id))

    def judgement(self, model: str, bundle: str) -> Entry | None:
        """The newest approval or rejection of a bundle."""
        c = _TABLE.c
        query = select(*_TABLE.columns).where(c.model == model, c.bundle == bundle, c.kind.in_((APPROVED, REJECTED)))
        found = self._entries(query.order_by(c.id.desc()).limit(1))
        return found[0] if found else None

    def _entries(self, query: Any) -> list[Entry]:
        with self._transaction() as connection:
            return [Entry(**row._mapping) for row in connection.execute(query)]


def _plain(value: Any) -> Any:
    """What jsonb can hold: numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
