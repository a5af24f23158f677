"""The catalog's first half: deliveries, what was met in them, and what the filters decided about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import and_, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.bulk import stage, to_json
from infra.catalog.connection import CatalogDatabase, lock_delivery, set_state
from infra.catalog.models import DeliveryRecord, Image, Sighting, SliceMember, SliceRecord, Verdict
from infra.catalog.rows import Delivery, SightingRow, VerdictRow

_SIGHTING = [
    *[("uri", "text"), ("image_id", "text"), ("bytes", "bigint"), ("format", "text"), ("width", "int")],
    *[("height", "int"), ("licence", "text"), ("source", "text"), ("captions", "jsonb"), ("mask_uri", "text")],
    *[("attributes", "jsonb"), ("split", "text")],
]

# `incoming` holds the delivery as it is now. A table filled by one COPY keeps its order in ctid: the last row of
# a URI counts. Rows are inserted in the order of their keys, so that two deliveries never wait for each other.
_INGEST = (
    """
    INSERT INTO images (id, bytes, format, width, height)
    SELECT DISTINCT ON (image_id) image_id, bytes, format, width, height FROM incoming
    WHERE image_id IS NOT NULL ORDER BY image_id
    ON CONFLICT (id) DO UPDATE SET format = excluded.format, width = excluded.width, height = excluded.height
    WHERE (images.format, images.width, images.height)
        IS DISTINCT FROM (excluded.format, excluded.width, excluded.height)
    """,
    """
    DELETE FROM sightings WHERE delivery = :delivery
    AND NOT EXISTS (SELECT FROM incoming WHERE incoming.uri = sightings.uri)
    """,
    """
    INSERT INTO sightings
        (delivery, uri, image_id, licence, source, captions, mask_uri, attributes, split)
    SELECT DISTINCT ON (uri)
        :delivery, uri, image_id, licence, source, captions, mask_uri, attributes, split
    FROM incoming ORDER BY uri, ctid DESC
    ON CONFLICT (delivery, uri) DO UPDATE SET image_id = excluded.image_id, licence = excluded.licence,
        source = excluded.source, captions = excluded.captions, mask_uri = excluded.mask_uri,
        attributes = excluded.attributes, split = excluded.split
    """,
    """
    DELETE FROM verdicts v WHERE v.delivery = :delivery AND NOT EXISTS (
        SELECT FROM sightings s WHERE s.delivery = v.delivery AND s.image_id = v.image_id)
    """,
)

_WRITE_VERDICTS = """
    INSERT INTO verdicts (delivery, image_id, filter, filter_version, decision, score, reason)
    SELECT DISTINCT ON (image_id, filter) :delivery, image_id, filter, filter_version, decision, score, reason
    FROM judged ORDER BY image_id, filter, ctid DESC
    ON CONFLICT (delivery, image_id, filter) DO UPDATE SET filter_version = excluded.filter_version,
        decision = excluded.decision, score = excluded.score, reason = excluded.reason
"""


class Intake(CatalogDatabase):
    """Deliveries, images, sightings and verdicts."""

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

        Sightings that are no longer there go, and with them the verdicts on images that the delivery no longer
        shows. When one URI comes twice the last row counts. Rows stream through COPY.
        """
        with self._transaction() as connection:
            lock_delivery(connection, delivery)
            stage(connection, "incoming", _SIGHTING, (_sighting_values(row) for row in rows))
            parameters = {"delivery": delivery}
            for statement in _INGEST:
                connection.execute(text(statement), parameters)
            set_state(connection, delivery, "ingested")
            count = select(func.count()).select_from(Sighting).where(Sighting.delivery == delivery)
            return connection.scalar(count) or 0

    def sightings(self, delivery: str) -> Iterator[SightingRow]:
        """The delivery's sightings with their images' facts, in the order of their URIs, streamed."""
        s, i = Sighting, Image
        query = (
            select(
                *(s.uri, s.image_id, i.bytes, i.format, i.width, i.height, s.licence, s.source),
                *(s.captions, s.mask_uri, s.attributes, s.split),
            )
            .outerjoin(i, s.image_id == i.id)
            .where(s.delivery == delivery)
            .order_by(s.uri)
        )
        with self._transaction() as connection:
            for row in connection.execution_options(yield_per=2000).execute(query):
                uri, image_id, size, kind, width, height, *rest = row
                yield SightingRow(uri, image_id, size or 0, kind or "", width or 0, height or 0, *rest)

    def set_phashes(self, phashes: Mapping[str, int]) -> None:
        """Stores 64-bit perceptual hashes by image id."""
        with self._transaction() as connection:
            stage(
                connection,
                "hashed",
                [("id", "text"), ("phash", "bigint")],
                ((image, _signed(value)) for image, value in phashes.items()),
            )
            connection.execute(text("UPDATE images SET phash = hashed.phash FROM hashed WHERE images.id = hashed.id"))

    def kept_phashes(self, excluding: str) -> dict[str, int]:
        """Perceptual hashes (unsigned) of the images in the current slices of every other delivery."""
        query = (
            select(Image.id, Image.phash)
            .join(SliceMember, SliceMember.image_id == Image.id)
            .join(
                SliceRecord, and_(SliceRecord.delivery == SliceMember.delivery, SliceRecord.id == SliceMember.slice_id)
            )
            .where(SliceRecord.state == "current", SliceRecord.delivery != excluding, Image.phash.is_not(None))
            .distinct()
            .order_by(Image.id)
        )
        with self._transaction() as connection:
            return {image: _unsigned(value) for image, value in connection.execute(query) if value is not None}

    def write_verdicts(self, delivery: str, verdicts: Iterable[VerdictRow]) -> int:
        """Writes verdicts, replacing the same filter's older ones on the same images; returns how many came."""
        columns = [("image_id", "text"), ("filter", "text"), ("filter_version", "text")]
        columns += [("decision", "text"), ("score", "double precision"), ("reason", "text")]
        with self._transaction() as connection:
            count = stage(
                connection,
                "judged",
                columns,
                ((v.image_id, v.filter, v.filter_version, v.decision, v.score, v.reason) for v in verdicts),
            )
            connection.execute(text(_WRITE_VERDICTS), {"delivery": delivery})
            return count

    def clear_verdicts(self, delivery: str) -> None:
        """Forgets the delivery's verdicts, so that those of filters that no longer run do not stay."""
        with self._transaction() as connection:
            connection.execute(delete(Verdict).where(Verdict.delivery == delivery))

    def verdicts(self, delivery: str) -> Iterator[VerdictRow]:
        """The delivery's verdicts by image and filter, streamed."""
        v = Verdict
        query = (
            select(v.image_id, v.filter, v.filter_version, v.decision, v.score, v.reason)
            .where(v.delivery == delivery)
            .order_by(v.image_id, v.filter)
        )
        with self._transaction() as connection:
            for row in connection.execution_options(yield_per=2000).execute(query):
                yield VerdictRow(*row)

    def verdict_counts(self, delivery: str) -> dict[str, dict[str, int]]:
        """Images by filter and decision: {"size": {"keep": 90, "drop": 10}, …}."""
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


def _sighting_values(row: SightingRow) -> tuple[Any, ...]:
    return (
        *(row.uri, row.image_id, row.bytes, row.format, row.width, row.height, row.licence, row.source),
        *(to_json(row.captions), row.mask_uri, to_json(row.attributes), row.split),
    )


def _signed(value: int) -> int:
    """A 64-bit pattern as PostgreSQL's signed bigint."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _unsigned(value: int) -> int:
    return value & ((1 << 64) - 1)
