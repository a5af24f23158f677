"""The catalog on embeddings of images: a table with pgvector's `vector` column, one row per image and embedder.

The table is made when an embedder is first configured, not by a migration: the extension needs an administrator of the
database, and who has no embedder needs neither. There is no index: pgvector's are approximate, and what they find
depends on the order in which rows came, while a decision has to be the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from infra.catalog.bulk import stage
from infra.catalog.connection import CatalogDatabase
from infra.catalog.rows import EmbeddingRow
from infra.errors import BackdropError

if TYPE_CHECKING:
    import numpy as np

_LOCK = 0x656D626564730001  # "embeds" and a 1: any number that everybody agrees on

# Untyped, for the dimension is the embedder's.
_TABLE = """
    CREATE TABLE IF NOT EXISTS embeddings (
        image_id text NOT NULL, embedder text NOT NULL, embedding vector NOT NULL,
        CONSTRAINT pk_embeddings PRIMARY KEY (image_id, embedder)
    )
"""
# By image id, as all writers do. A takedown may have come while the slice was scanned.
_WRITE = """
    INSERT INTO embeddings (image_id, embedder, embedding)
    SELECT image_id, embedder, embedding FROM embedded e
    WHERE NOT EXISTS (SELECT FROM taken_down t WHERE t.image_id = e.image_id)
    ORDER BY image_id ON CONFLICT DO NOTHING
"""
_MEANS = """
    SELECT s.delivery, count(*), vector_send(avg(e.embedding)) FROM (
        SELECT DISTINCT delivery, image_id FROM sightings WHERE delivery = ANY(:deliveries)
    ) s JOIN embeddings e ON e.image_id = s.image_id AND e.embedder = :embedder GROUP BY s.delivery
"""


class Embeddings(CatalogDatabase):
    """Embeddings by image and embedder. All but `make_embeddings` expect its table."""

    def make_embeddings(self) -> None:
        """Makes the table, and pgvector's extension if need be. Raises BackdropError where the server has none."""
        with self._transaction() as connection:
            if _is_there(connection):
                return
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            try:
                connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                raise BackdropError(
                    "an embedder is configured, but the catalog database cannot make pgvector's extension 'vector': "
                    + str(error.orig).strip().splitlines()[0],
                    "install pgvector on that server and run CREATE EXTENSION vector in the catalog database as its"
                    " administrator, or leave curation.embedder out",
                ) from error
            connection.execute(text(_TABLE))

    def embedded(self, embedder: str, image_ids: Sequence[str]) -> set[str]:
        """Which of these images the embedder has embedded."""
        query = text("SELECT image_id FROM embeddings WHERE embedder = :embedder AND image_id = ANY(:ids)")
        with self._transaction() as connection:
            return set(connection.scalars(query, {"embedder": embedder, "ids": list(image_ids)}))

    def embeddings(self, connection: Connection, embedder: str, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """image id → float32 (D,) of length 1, of those of the images that the embedder has embedded."""
        from pgvector import Vector

        # In pgvector's binary form: text costs a hundred times as much to read.
        query = text(
            "SELECT image_id, vector_send(embedding) FROM embeddings "
            "WHERE embedder = :embedder AND image_id = ANY(:ids)"
        )
        rows = connection.execute(query, {"embedder": embedder, "ids": list(image_ids)})
        return {image_id: Vector.from_binary(data).to_numpy() for image_id, data in rows}

    def embedding_means(self, embedder: str, deliveries: Sequence[str]) -> dict[str, tuple[int, np.ndarray]]:
        """delivery → (images, their mean embedding float32 (D,)), of all that the scan let through.

        Copies count, too: what is kept of a delivery is what earlier ones did not have, and so always unlike them.
        """
        from pgvector import Vector

        with self._transaction() as connection:
            rows = connection.execute(text(_MEANS), {"embedder": embedder, "deliveries": list(deliveries)})
            return {name: (count, Vector.from_binary(data).to_numpy()) for name, count, data in rows}


def write_embeddings(connection: Connection, rows: Sequence[EmbeddingRow]) -> None:
    """Writes embeddings that are not there yet."""
    from pgvector import Vector

    columns = [("image_id", "text"), ("embedder", "text"), ("embedding", "vector")]
    stage(connection, "embedded", columns, ((r.image_id, r.embedder, Vector(r.vector).to_text()) for r in rows))
    connection.execute(text(_WRITE))


def forget_embeddings(connection: Connection, image_ids: Sequence[str]) -> list[str]:
    """Deletes the embeddings of images, by whatever embedder; the tables that it deleted from, none without one."""
    if not _is_there(connection):
        return []
    connection.execute(text("DELETE FROM embeddings WHERE image_id = ANY(:ids)"), {"ids": list(image_ids)})
    return ["embeddings"]


def _is_there(connection: Connection) -> bool:
    return connection.scalar(text("SELECT to_regclass('embeddings')")) is not None
