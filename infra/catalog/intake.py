"""The catalog's first part: deliveries and what was met in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.bulk import clean, stage, to_json
from infra.catalog.connection import CatalogDatabase, lock_delivery, set_state
from infra.catalog.models import DeliveryRecord, Sighting
from infra.catalog.rows import Delivery, SightingRow

_SIGHTING = [
    *[("uri", 'text COLLATE "C"'), ("etag", "text"), ("licence", "text"), ("source", "text"), ("captions", "jsonb")],
    *[("mask_uri", "text"), ("attributes", "jsonb"), ("split", "text"), ("problem", "text")],
]
_NAMES = ", ".join(name for name, _ in _SIGHTING)
_CHANGED = [name for name, _ in _SIGHTING if name != "uri"]

# `incoming` holds the delivery as it is now; a table filled by one COPY keeps its order in ctid. What is no longer
# there goes with its verdicts. Rows are inserted in the order of their keys, so that two writers never wait for each
# other; a row that is the same is not written again; one whose bytes changed has to be scanned again.
# `rows`: readers list in order and each URI once, which is seen on the way; only other listings have to be sorted.
_SORTED = f"SELECT :delivery, {_NAMES} FROM incoming"
_UNSORTED = f"SELECT DISTINCT ON (uri) :delivery, {_NAMES} FROM incoming ORDER BY uri, ctid DESC"
_INGEST = (
    """
    WITH gone AS (
        DELETE FROM sightings WHERE delivery = :delivery
        AND NOT EXISTS (SELECT FROM incoming WHERE incoming.uri = sightings.uri) RETURNING id
    ), forgotten AS (DELETE FROM quarantine USING gone WHERE quarantine.sighting = gone.id)
    DELETE FROM verdicts USING gone WHERE verdicts.sighting = gone.id
    """,
    f"""
    INSERT INTO sightings (delivery, {_NAMES}) {{rows}}
    ON CONFLICT (delivery, uri) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _CHANGED)},
        image_id = CASE WHEN sightings.etag = excluded.etag THEN sightings.image_id END
    WHERE ({", ".join(f"sightings.{name}" for name in _CHANGED)})
        IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in _CHANGED)})
    """,
)


class Intake(CatalogDatabase):
    """Deliveries and sightings."""

    def add_delivery(self, name: str, uri: str, kind: str) -> None:
        """Opens a delivery. One that is there keeps its kind and state; a changed URI is taken over."""
        statement = insert(DeliveryRecord).values(name=name, uri=uri, kind=kind)
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"uri": uri}))

    def list_deliveries(self) -> list[Delivery]:
        """All deliveries by name."""
        return self._deliveries()

    def delivery(self, name: str) -> Delivery | None:
        """The delivery of this name."""
        return next(iter(self._deliveries(name)), None)

    def _deliveries(self, name: str | None = None) -> list[Delivery]:
        table = DeliveryRecord
        query = select(table.name, table.uri, table.kind, table.added_at, table.state).order_by(table.name)
        if name is not None:
            query = query.where(table.name == name)
        with self._transaction() as connection:
            return [Delivery(*row) for row in connection.execute(query)]

    def ingest(self, delivery: str, rows: Iterable[SightingRow]) -> int:
        """Makes the delivery's sightings exactly these rows and returns how many there are; all or nothing.

        When one URI comes twice the last row counts. Rows stream through COPY; writing the same again changes nothing.
        """
        with self._transaction() as connection:
            lock_delivery(connection, delivery)
            order = _Order()
            staged = stage(connection, "incoming", _SIGHTING, (order.seen(_values(row)) for row in rows))
            parameters = {"delivery": delivery}
            for statement in _INGEST:
                chosen = statement.replace("{rows}", _SORTED if order.ascending else _UNSORTED)
                connection.execute(text(chosen), parameters)
            set_state(connection, delivery, "ingested")
            return staged if order.ascending else connection.scalar(_count(delivery)) or 0

    def count_sightings(self, delivery: str) -> int:
        """How many sightings the delivery has."""
        with self._transaction() as connection:
            return connection.scalar(_count(delivery)) or 0

    def sightings(self, delivery: str) -> Iterator[SightingRow]:
        """The delivery's sightings in the order of their URIs' bytes, streamed."""
        s = Sighting
        columns = (s.uri, s.etag, s.licence, s.source, s.captions, s.mask_uri, s.attributes, s.split, s.problem, s.id)
        query = select(*columns, s.image_id).where(s.delivery == delivery).order_by(s.uri)
        with self._transaction() as connection:
            for row in connection.execution_options(yield_per=2000).execute(query):
                yield SightingRow(*row)


class _Order:
    """Whether the URIs that pass by ascend as PostgreSQL's "C" collation sorts them: by code point, as Python does."""

    def __init__(self) -> None:
        self.ascending = True
        self._last = ""

    def seen(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        uri = clean(values[0])
        self.ascending &= uri > self._last
        self._last = uri
        return values


def _count(delivery: str) -> Any:
    return select(func.count()).select_from(Sighting).where(Sighting.delivery == delivery)


def _values(row: SightingRow) -> tuple[Any, ...]:
    return (
        *(row.uri, row.etag, row.licence, row.source, to_json(row.captions)),
        *(row.mask_uri, to_json(row.attributes), row.split, row.problem),
    )
