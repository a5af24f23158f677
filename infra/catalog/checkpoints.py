"""The catalog on training checkpoints: the hashes that a resume trusts."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.connection import CatalogDatabase
from infra.catalog.models import CheckpointRecord


class Checkpoints(CatalogDatabase):
    """Hashes of record by run and name. A checkpoint that is written again replaces its hash."""

    def record_checkpoint(self, run: str, name: str, sha256: str) -> None:
        """Records the hash of a checkpoint's manifest."""
        statement = insert(CheckpointRecord).values(run=run, name=name, sha256=sha256)
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["run", "name"], set_={"sha256": sha256}))

    def checkpoint(self, run: str, name: str) -> str | None:
        """The hash of record of a checkpoint's manifest; None where there is none."""
        table = CheckpointRecord
        with self._transaction() as connection:
            return connection.scalar(select(table.sha256).where(table.run == run, table.name == name))
