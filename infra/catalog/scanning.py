"""The catalog's second part: what the scan of a slice found out, each slice in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.bulk import stage, to_json
from infra.catalog.connection import CatalogDatabase
from infra.catalog.embeddings import write_embeddings
from infra.catalog.models import Quarantined, ScannedSlice, TakenDown, Verdict
from infra.catalog.rows import EmbeddingRow, QuarantineRow, ScannedRow, VerdictRow

_SCANNED = [
    *[("sighting", "bigint"), ("image_id", "text"), ("bytes", "bigint"), ("format", "text"), ("width", "int")],
    *[("height", "int"), ("phash", "bigint"), ("sketch", "bytea"), ("cleaned", "jsonb")],
]
_VERDICT = [
    *[("sighting", "bigint"), ("image_id", "text"), ("filter", "text"), ("filter_version", "text")],
    *[("decision", "text"), ("score", "double precision"), ("reason", "text"), ("detail", "jsonb")],
]
_FACTS = "bytes, format, width, height, phash, sketch"

# Images in the order of their ids: two slices that met the same ones never wait for each other in a circle.
_COMMIT = (
    f"""
    INSERT INTO images (id, {_FACTS}) SELECT DISTINCT ON (image_id) image_id, {_FACTS}
    FROM scanned WHERE image_id IS NOT NULL ORDER BY image_id
    ON CONFLICT (id) DO UPDATE SET format = excluded.format, width = excluded.width, height = excluded.height,
        phash = coalesce(excluded.phash, images.phash), sketch = coalesce(excluded.sketch, images.sketch)
    WHERE (images.format, images.width, images.height, images.phash, images.sketch)
        IS DISTINCT FROM (excluded.format, excluded.width, excluded.height, excluded.phash, excluded.sketch)
    """,
    """
    UPDATE sightings SET image_id = scanned.image_id, cleaned = scanned.cleaned FROM scanned
    WHERE sightings.id = scanned.sighting
    AND (sightings.image_id, sightings.cleaned) IS DISTINCT FROM (scanned.image_id, scanned.cleaned)
    """,
    "DELETE FROM verdicts USING scanned WHERE verdicts.sighting = scanned.sighting",
    "DELETE FROM quarantine USING scanned WHERE quarantine.sighting = scanned.sighting",
)
_WRITE_VERDICTS = """
    INSERT INTO verdicts (delivery, sighting, image_id, filter, filter_version, decision, score, reason, detail)
    SELECT :delivery, sighting, image_id, filter, filter_version, decision, score, reason, detail FROM judged
    ON CONFLICT (sighting, filter) DO UPDATE SET image_id = excluded.image_id,
        filter_version = excluded.filter_version, decision = excluded.decision, score = excluded.score,
        reason = excluded.reason, detail = excluded.detail
"""


class Scanning(CatalogDatabase):
    """Scanned slices, the images' facts, verdicts, quarantine and masks."""

    def scanned_slices(self, delivery: str) -> set[str]:
        """Ids of the slices of the delivery that need not be scanned again."""
        with self._transaction() as connection:
            return set(connection.scalars(select(ScannedSlice.id).where(ScannedSlice.delivery == delivery)))

    def forget_scans(self, delivery: str, ids: Iterable[str]) -> None:
        """Drops the records of slices that the delivery no longer has; its sightings' facts stay."""
        table = ScannedSlice
        with self._transaction() as connection:
            connection.execute(delete(table).where(table.delivery == delivery, table.id.in_(list(ids))))

    def commit_scan(
        self,
        delivery: str,
        slice_id: str,
        rows: Sequence[ScannedRow],
        verdicts: Iterable[VerdictRow],
        quarantined: Sequence[QuarantineRow] = (),
        embeddings: Sequence[EmbeddingRow] = (),
    ) -> None:
        """Writes all that the scan of a slice found, in place of what an earlier scan of the same sightings found."""
        with self._transaction() as connection:
            # A machine that loses its power may lose the last slices: they are scanned again.
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            stage(connection, "scanned", _SCANNED, (_scanned_values(row) for row in rows))
            for statement in _COMMIT:
                connection.execute(text(statement))
            write_verdicts(connection, delivery, verdicts)
            for row in quarantined:
                values = {name: getattr(row, name) for name in QuarantineRow.__slots__}
                connection.execute(insert(Quarantined).values(delivery=delivery, slice_id=slice_id, **values))
            if embeddings:
                write_embeddings(connection, embeddings)
            record = insert(ScannedSlice).values(delivery=delivery, id=slice_id, sightings=len(rows))
            connection.execute(record.on_conflict_do_nothing())

    def verdicts(self, delivery: str, filters: Sequence[str] = ()) -> Iterator[VerdictRow]:
        """The delivery's verdicts by sighting and filter, of some filters if asked, streamed."""
        v = Verdict
        columns = (v.sighting, v.image_id, v.filter, v.filter_version, v.decision, v.score, v.reason, v.detail)
        query = select(*columns).where(v.delivery == delivery).order_by(v.sighting, v.filter)
        if filters:
            query = query.where(v.filter.in_(filters))
        with self._transaction() as connection:
            for row in connection.execution_options(yield_per=2000).execute(query):
                yield VerdictRow(*row)

    def verdict_counts(self, delivery: str) -> dict[str, dict[str, int]]:
        """Sightings by filter and decision: {"size": {"keep": 90, "drop": 10}, …}."""
        query = (
            select(Verdict.filter, Verdict.decision, func.count())
            .where(Verdict.delivery == delivery)
            .group_by(Verdict.filter, Verdict.decision)
            .order_by(Verdict.filter, Verdict.decision)
        )
        counts: dict[str, dict[str, int]] = {}
        with self._transaction() as connection:
            for name, decision, number in connection.execute(query):
                counts.setdefault(name, {})[decision] = number
        return counts

    def quarantine(self, delivery: str | None = None) -> list[QuarantineRow]:
        """What lies in quarantine, by URI; of one delivery if asked."""
        q = Quarantined
        query = select(q.sighting, q.uri, q.image_id, q.reason, q.detail, q.bytes, q.key).order_by(q.delivery, q.uri)
        if delivery is not None:
            query = query.where(q.delivery == delivery)
        with self._transaction() as connection:
            return [QuarantineRow(*row) for row in connection.execute(query)]

    def taken_down(self, image_ids: Sequence[str] | None = None) -> set[str]:
        """The skip list, or which of these images are on it."""
        query = select(TakenDown.image_id)
        if image_ids is not None:
            query = query.where(TakenDown.image_id.in_(image_ids))
        with self._transaction() as connection:
            return set(connection.scalars(query))


def write_verdicts(connection: Connection, delivery: str, verdicts: Iterable[VerdictRow]) -> None:
    stage(connection, "judged", _VERDICT, (_verdict_values(row) for row in verdicts))
    connection.execute(text(_WRITE_VERDICTS), {"delivery": delivery})


def _scanned_values(row: ScannedRow) -> tuple[Any, ...]:
    return (
        *(row.sighting, row.image_id, row.size, row.format, row.width, row.height),
        *(None if row.phash is None else signed(row.phash), row.sketch),
        None if row.cleaned is None else to_json(row.cleaned),
    )


def _verdict_values(row: VerdictRow) -> tuple[Any, ...]:
    return (
        *(row.sighting, row.image_id, row.filter, row.filter_version, row.decision),
        *(None if row.score is None else float(row.score), row.reason),
        None if row.detail is None else to_json(row.detail),
    )


def signed(value: int) -> int:
    """A 64-bit pattern as PostgreSQL's signed bigint."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def unsigned(value: int) -> int:
    """The 64-bit pattern behind PostgreSQL's signed bigint."""
    return value & ((1 << 64) - 1)
