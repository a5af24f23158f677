"""The catalog's third part: the decision over a whole delivery, and the keep list that it ends in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, func, select, text

from infra.catalog.bulk import stage
from infra.catalog.connection import CatalogDatabase
from infra.catalog.models import Caption, Copy, DeliveryRecord, Image, Kept, Mask, Sighting, Verdict
from infra.catalog.rows import EXACT, TAKEN, CandidateRow, CopyRow, MaskRow, PackRow, VerdictRow
from infra.catalog.scanning import unsigned, write_verdicts

_LOCK = 0x6465636964650001  # "decide" and a 1: any number that everybody agrees on

# One sighting of each image goes on: a held-out one first (nobody trains on what is held out), then one that is not
# named as file managers name copies ("vase copy.jpg", "vase (2).jpg"), then by URI.
# Rendered catalogues are compared with nothing else: only one is in the mix at a time.
_EXACT = """
    WITH mine AS (
        SELECT s.id, s.image_id, s.uri,
            first_value(s.uri) OVER ranked AS first_uri, row_number() OVER ranked AS nth,
            count(*) OVER (PARTITION BY s.image_id) AS times
        FROM sightings s WHERE s.delivery = :delivery AND s.image_id IS NOT NULL
        WINDOW ranked AS (PARTITION BY s.image_id ORDER BY s.split, s.uri ~* :copies, s.uri)
    ), judged AS (
        SELECT mine.*, t.image_id IS NOT NULL AS taken, other.image_id IS NOT NULL AS there
        FROM mine LEFT JOIN taken_down t ON t.image_id = mine.image_id LEFT JOIN (
            SELECT DISTINCT k.image_id FROM kept k JOIN deliveries d ON d.name = k.delivery
            WHERE k.delivery <> :delivery AND d.kind <> 'sample' AND :compared
        ) other ON other.image_id = mine.image_id
    )
    INSERT INTO verdicts (delivery, sighting, image_id, filter, filter_version, decision, score, reason)
    SELECT :delivery, id, image_id, CASE WHEN taken THEN 'takedown' ELSE 'exact duplicate' END, '1',
        CASE WHEN taken OR there OR nth > 1 THEN 'drop' WHEN times > 1 THEN 'fix' ELSE 'keep' END, times,
        CASE WHEN taken THEN 'taken down'
            WHEN there THEN 'exact duplicate: another delivery brought the same bytes'
            WHEN nth > 1 THEN 'exact duplicate of ' || regexp_replace(first_uri, '^.*/', '')
            WHEN times > 1 THEN 'met ' || times || ' times, packed once' ELSE '' END
    FROM judged
"""
_COPIES = r"([^a-z]copy[^a-z])|(\(|%28)\d+(\)|%29)\.|%20\d\.|copy%20"
_DECIDERS = (EXACT, TAKEN, "near duplicate", "semantic duplicate")


class Deciding(CatalogDatabase):
    """What is left after the scan, copies among it, and the keep list."""

    @contextlib.contextmanager
    def deciding(self, delivery: str) -> Iterator[Connection]:
        """The one transaction of a decision. One at a time decides, so that two deliveries never keep one picture
        both."""
        with self._transaction() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection

    def drop_exact(self, connection: Connection, delivery: str, compared: bool) -> None:
        """Judges what is byte for byte the same, or taken down; forgets the delivery's older decision.

        `compared`: also with what the other deliveries keep.
        """
        connection.execute(
            text("DELETE FROM verdicts WHERE delivery = :delivery AND filter = ANY(:names)"),
            {"delivery": delivery, "names": list(_DECIDERS)},
        )
        connection.execute(text(_EXACT), {"delivery": delivery, "compared": compared, "copies": _COPIES})
        connection.execute(text("ANALYZE verdicts"))

    def candidates(self, connection: Connection, delivery: str) -> Iterator[CandidateRow]:
        """What no verdict drops, best first: more pixels, more bytes, nothing to fix, the earlier URI. Streamed.

        One per cent more bytes are no better picture.
        """
        query = text(
            """
            SELECT s.id, s.image_id, s.split, i.width, i.height, i.phash
            FROM sightings s JOIN images i ON i.id = s.image_id
            LEFT JOIN verdicts d ON d.sighting = s.id AND d.filter = 'decode'
            WHERE s.delivery = :delivery AND i.phash IS NOT NULL AND NOT EXISTS (
                SELECT FROM verdicts v WHERE v.sighting = s.id AND v.decision = 'drop')
            ORDER BY s.split, i.width::bigint * i.height DESC,
                floor(70 * log(2, greatest(i.bytes, 1))) DESC, d.decision DESC, s.uri, s.image_id
            """
        )
        rows = connection.execute(query, {"delivery": delivery}, execution_options={"yield_per": 5000})
        for row in rows:
            sighting, image_id, split, width, height, value = row
            yield CandidateRow(sighting, image_id, split, width, height, unsigned(value))

    def known_hashes(self, connection: Connection, delivery: str) -> Iterator[tuple[str, int, int]]:
        """(image id, perceptual hash, pixels) of what all other deliveries of photographs keep, by id. Streamed."""
        query = (
            select(Image.id, Image.phash, Image.width * Image.height)
            .join(Kept, Kept.image_id == Image.id)
            .join(DeliveryRecord, DeliveryRecord.name == Kept.delivery)
            .where(Kept.delivery != delivery, DeliveryRecord.kind != "sample", Image.phash.is_not(None))
            .distinct()
            .order_by(Image.id)
        )
        for image_id, value, pixels in connection.execute(query, execution_options={"yield_per": 5000}):
            yield image_id, unsigned(value or 0), pixels  # never NULL: see the query

    def sketches(self, connection: Connection, image_ids: Sequence[str]) -> dict[str, bytes]:
        """The very small copies of these images."""
        query = select(Image.id, Image.sketch).where(Image.id.in_(image_ids), Image.sketch.is_not(None))
        return {row.id: row.sketch for row in connection.execute(query) if row.sketch is not None}

    def places(self, connection: Connection, image_ids: Sequence[str]) -> dict[str, str]:
        """Where each of these images can be read: the URI of its newest sighting."""
        query = (
            select(Sighting.image_id, func.max(Sighting.uri))
            .where(Sighting.image_id.in_(image_ids))
            .group_by(Sighting.image_id)
        )
        return {image_id: uri for image_id, uri in connection.execute(query) if image_id is not None}

    def write_decision(
        self,
        connection: Connection,
        delivery: str,
        verdicts: Iterable[VerdictRow],
        copies: Iterable[CopyRow],
        kept: Iterable[tuple[str, str, str, int]],
    ) -> None:
        """Replaces the delivery's copies and keep list; `kept` is (bucket, split, image id, sighting)."""
        write_verdicts(connection, delivery, verdicts)
        for table in (Copy, Kept):
            connection.execute(delete(table).where(table.delivery == delivery))
        columns = [
            *[("image_id", "text"), ("of", "text"), ("distance", "int"), ("residual", "double precision")],
            *[("better", "bool"), ("similarity", "double precision")],
        ]
        values = ((c.image_id, c.of, c.distance, c.residual, c.better, c.similarity) for c in copies)
        names = [(f'"{name}"', kind) for name, kind in columns]  # "of" is a word of SQL's
        stage(connection, "copied", names, values)
        listed = ", ".join(name for name, _ in names)
        connection.execute(
            text(f"INSERT INTO copies (delivery, {listed}) SELECT :delivery, {listed} FROM copied"),
            {"delivery": delivery},
        )
        stage(
            connection,
            "keeping",
            [("bucket", "text"), ("split", "text"), ("image_id", "text"), ("sighting", "bigint")],
            kept,
        )
        connection.execute(
            text(
                "INSERT INTO kept (delivery, bucket, split, image_id, sighting) "
                "SELECT :delivery, bucket, split, image_id, sighting FROM keeping"
            ),
            {"delivery": delivery},
        )

    def copies(self, delivery: str) -> list[CopyRow]:
        """The near and semantic duplicates found in the delivery, by what they repeat."""
        c = Copy
        columns = (c.image_id, c.of, c.distance, c.residual, c.better, c.similarity)
        query = select(*columns).where(c.delivery == delivery)
        with self._transaction() as connection:
            return [CopyRow(*row) for row in connection.execute(query.order_by(c.of, c.image_id))]

    def keep_list(self, delivery: str, masks: str = "", captions: str = "") -> Iterator[PackRow]:
        """The keep list by bucket, split and image id, streamed.

        With the masks that the segmenter `masks` cut and the captions that the captioner `captions` wrote.
        """
        k, s, m, c, i, d = Kept, Sighting, Mask, Caption, Image, Verdict
        query = (
            select(
                *(k.sighting, k.image_id, s.uri, func.coalesce(s.cleaned, s.captions), c.text, s.attributes),
                *(s.source, s.licence, s.mask_uri, func.coalesce(m.key, ""), m.confidence, k.bucket, k.split),
                *(i.width, i.height, func.coalesce(d.decision == "keep", False)),
            )
            .join(s, s.id == k.sighting)
            .join(i, i.id == k.image_id)
            .outerjoin(d, and_(d.sighting == k.sighting, d.filter == "decode"))
            .outerjoin(m, and_(m.image_id == k.image_id, m.source == masks, s.mask_uri.is_(None)))
            .outerjoin(c, and_(c.image_id == k.image_id, c.source == captions))
            .where(k.delivery == delivery)
            .order_by(k.bucket, k.split, k.image_id)
        )
        with self._transaction() as connection:
            for row in connection.execution_options(yield_per=2000).execute(query):
                sighting, image_id, uri, delivered, written, *rest = row
                every = [*delivered, written] if written and written not in delivered else delivered
                yield PackRow(sighting, image_id, uri, every, *rest)

    def uncaptioned(self, delivery: str, source: str, every: bool) -> Iterator[PackRow]:
        """What of the keep list the captioner `source` has to describe: what has no caption, or `every` picture."""
        with self._transaction() as connection:
            done = select(Caption.image_id).where(Caption.source == source)
            query = select(Kept.image_id).where(Kept.delivery == delivery, Kept.image_id.in_(done))
            described = set(connection.scalars(query))
        for row in self.keep_list(delivery):
            if row.image_id not in described and (every or not row.captions):
                yield row

    def commit_captions(self, source: str, texts: Mapping[str, str]) -> None:
        """Writes what the captioner `source` said of images, by image id."""
        with self._transaction() as connection:
            stage(connection, "written", [("image_id", "text"), ("text", "text")], sorted(texts.items()))
            query = """
                INSERT INTO captions (image_id, source, text) SELECT image_id, :source, text FROM written
                ON CONFLICT (image_id, source) DO UPDATE SET text = excluded.text, at = now()
            """
            connection.execute(text(query), {"source": source})

    def commit_masks(self, masks: Sequence[MaskRow]) -> None:
        """Writes which masks were cut."""
        columns = [("image_id", "text"), ("source", "text"), ("confidence", "double precision"), ("key", "text")]
        values = sorted((mask.image_id, mask.source, mask.confidence, mask.key) for mask in masks)
        with self._transaction() as connection:
            stage(connection, "cut", columns, values)
            query = """
                INSERT INTO masks (image_id, source, confidence, key)
                SELECT DISTINCT ON (image_id, source) image_id, source, confidence, key FROM cut
                ON CONFLICT (image_id, source) DO UPDATE SET confidence = excluded.confidence, key = excluded.key
            """
            connection.execute(text(query))

    def write_verdicts(self, delivery: str, verdicts: Iterable[VerdictRow]) -> None:
        """Writes verdicts, replacing the same filter's older ones on the same sightings."""
        with self._transaction() as connection:
            write_verdicts(connection, delivery, verdicts)

    def replace_verdicts(self, delivery: str, filter: str, verdicts: Iterable[VerdictRow]) -> None:
        """Makes these the delivery's only verdicts of one filter."""
        with self._transaction() as connection:
            connection.execute(delete(Verdict).where(Verdict.delivery == delivery, Verdict.filter == filter))
            write_verdicts(connection, delivery, verdicts)

    def planted(self, delivery: str, order: Sequence[str]) -> dict[str, Any]:
        """What was planted against what was dropped; {} for a delivery that does not know its own dirt.

        {"kinds": {kind: {"planted", "dropped", "by": {filter: n}}}, "clean": {"files", "dropped", "by"}}. `order`: of
        the filters, the first that drops a file counts.
        """
        query = text(
            """
            SELECT attributes ->> 'planted', (
                SELECT v.filter FROM verdicts v WHERE v.sighting = s.id AND v.decision = 'drop'
                ORDER BY coalesce(array_position(CAST(:order AS text[]), v.filter), 1000), v.filter LIMIT 1
            ), count(*)
            FROM sightings s WHERE s.delivery = :delivery GROUP BY 1, 2 ORDER BY 1, 2
            """
        )
        with self._transaction() as connection:
            rows = list(connection.execute(query, {"delivery": delivery, "order": list(order)}))
        if not any(kind for kind, _, _ in rows):
            return {}
        kinds: dict[str, dict[str, Any]] = {}
        clean: dict[str, Any] = {"files": 0, "dropped": 0, "by": {}}
        for kind, dropped, number in rows:
            entry = kinds.setdefault(kind, {"planted": 0, "dropped": 0, "by": {}}) if kind else clean
            entry["planted" if kind else "files"] += number
            if dropped is not None:
                entry["dropped"] += number
                entry["by"][dropped] = entry["by"].get(dropped, 0) + number
        return {"kinds": kinds, "clean": clean}
