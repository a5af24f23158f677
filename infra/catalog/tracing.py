"""The catalog's answers to: where does this picture come from and where did it go, and what was this model made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, text

from infra.catalog.connection import CatalogDatabase
from infra.catalog.models import (
    Copy,
    Image,
    Quarantined,
    Shown,
    Sighting,
    SliceMember,
    SliceRecord,
    Verdict,
)

# A slice belongs to one delivery; its members' sightings there say where they are from. An image that was met more
# than once there is counted once, by its first sighting.
_SOURCES = """
    WITH pieces AS (
        SELECT piece ->> 'id' AS id, piece ->> 'split' AS split
        FROM dataset_versions v, jsonb_array_elements(v.slices) piece WHERE v.version = :version
    ), members AS (
        SELECT DISTINCT m.delivery, m.image_id, p.split FROM pieces p JOIN slice_members m ON m.slice_id = p.id
    ), found AS (
        SELECT DISTINCT ON (m.delivery, m.image_id) m.image_id, m.split, m.delivery, coalesce(s.uri, '') AS uri,
            coalesce(s.licence, '') AS licence, coalesce(s.source, '') AS source
        FROM members m LEFT JOIN sightings s ON s.image_id = m.image_id AND s.delivery = m.delivery
        ORDER BY m.delivery, m.image_id, s.uri
    )
"""


@dataclass(frozen=True)
class Origin:
    """One image of a dataset version and where it came from."""

    image_id: str
    split: str
    delivery: str
    uri: str
    licence: str
    source: str


@dataclass(frozen=True)
class OriginCount:
    """How many images of a dataset version have one delivery, licence and source."""

    delivery: str
    kind: str
    split: str
    licence: str
    source: str
    images: int


@dataclass(frozen=True)
class ImageTrace:
    """All that the catalog knows of one image; rows carry the columns' names as attributes."""

    facts: Any  # a row or None: format, width, height, bytes
    sightings: list[Row[Any]]  # delivery, uri, source, licence, split, captions
    verdicts: list[Row[Any]]  # delivery, filter, filter_version, decision, score, reason
    quarantine: list[Row[Any]]  # delivery, reason, detail, key
    copies: list[Row[Any]]  # delivery, image_id, of, distance, similarity
    slices: list[Row[Any]]  # delivery, id, split, bucket, state, shard, place
    versions: list[Row[Any]]  # version, samples, withdrawn, trained (False: held out there)
    models: list[Row[Any]]  # asset, id, dataset_version, mlflow_run; of versions that it was trained on
    pictures: list[str]  # store keys

    @property
    def known(self) -> bool:
        return bool(self.facts or self.sightings or self.slices or self.quarantine)


class Tracing(CatalogDatabase):
    """From an image to the models, and back."""

    def trace_image(self, image_id: str) -> ImageTrace:
        """Where an image came from, what was decided about it, and what was made of it."""
        s, v, q, c, r, m = Sighting, Verdict, Quarantined, Copy, SliceRecord, SliceMember
        versions = text(
            "SELECT v.version, v.samples, v.withdrawn, bool_or(piece ->> 'split' = 'train') AS trained "
            "FROM dataset_versions v, jsonb_array_elements(v.slices) piece "
            "JOIN slice_members m ON m.slice_id = piece ->> 'id' WHERE m.image_id = :id "
            "GROUP BY v.version, v.samples, v.withdrawn, v.created_at ORDER BY v.created_at, v.version"
        )
        with self._transaction() as connection:

            def rows(query: Any) -> list[Row[Any]]:
                return list(connection.execute(query, {"id": image_id} if query is versions else {}))

            facts = select(Image.format, Image.width, Image.height, Image.bytes).where(Image.id == image_id)
            found = rows(versions)
            models = text(
                "SELECT asset, id, dataset_version, mlflow_run FROM models WHERE dataset_version = ANY(:versions) "
                "ORDER BY created_at, id"
            )
            return ImageTrace(
                facts=connection.execute(facts).one_or_none(),
                sightings=rows(
                    select(s.delivery, s.uri, s.source, s.licence, s.split, s.captions)
                    .where(s.image_id == image_id)
                    .order_by(s.delivery, s.uri)
                ),
                verdicts=rows(
                    select(v.delivery, v.filter, v.filter_version, v.decision, v.score, v.reason)
                    .where(v.image_id == image_id)
                    .order_by(v.delivery, v.sighting, v.filter)
                ),
                quarantine=rows(select(q.delivery, q.reason, q.detail, q.key).where(q.image_id == image_id)),
                copies=rows(
                    select(c.delivery, c.image_id, c.of, c.distance, c.similarity).where(
                        (c.image_id == image_id) | (c.of == image_id)
                    )
                ),
                slices=rows(
                    select(m.delivery, r.id, r.split, r.bucket, r.state, m.shard, m.place)
                    .join(r, (r.delivery == m.delivery) & (r.id == m.slice_id))
                    .where(m.image_id == image_id)
                    .order_by(r.committed_at, r.id)
                ),
                versions=found,
                models=list(connection.execute(models, {"versions": [row.version for row in found if row.trained]})),
                pictures=list(
                    connection.scalars(select(Shown.key).where(Shown.image_id == image_id).order_by(Shown.key))
                ),
            )

    def origins(self, version: str) -> Iterator[Origin]:
        """Where each image of a dataset version came from, streamed, by delivery and image id."""
        query = text(
            f"{_SOURCES} SELECT image_id, split, delivery, uri, licence, source FROM found ORDER BY delivery, image_id"
        )
        with self._transaction() as connection:
            rows = connection.execution_options(yield_per=5000).execute(query, {"version": version})
            for row in rows:
                yield Origin(*row)

    def origin_counts(self, version: str) -> list[OriginCount]:
        """The same, counted by delivery, split, licence and source; the largest first."""
        query = text(
            f"{_SOURCES} SELECT f.delivery, coalesce(d.kind, ''), split, licence, source, count(*) "
            "FROM found f LEFT JOIN deliveries d ON d.name = f.delivery "
            "GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC, 1, 3, 4, 5"
        )
        with self._transaction() as connection:
            return [OriginCount(*row) for row in connection.execute(query, {"version": version})]
