"""The catalog's last part: what was made of the images (slices, dataset versions, models)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, select, text, update
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.bulk import stage
from infra.catalog.connection import CatalogDatabase, lock_delivery, set_state
from infra.catalog.models import DatasetVersionRecord, ModelRecord, SliceMember, SliceRecord
from infra.catalog.rows import Model
from infra.errors import BackdropError
from infra.shards import DatasetVersion, Slice

_WRITE_MEMBERS = """
    INSERT INTO slice_members (delivery, slice_id, image_id, shard, place)
    SELECT :delivery, :slice, image_id, shard, place FROM members ORDER BY image_id
    ON CONFLICT DO NOTHING
"""
_MEMBER = [("image_id", "text"), ("shard", "text"), ("place", "int")]


class Lineage(CatalogDatabase):
    """Slices and their members, dataset versions, models."""

    def staged_slices(self, delivery: str) -> dict[str, Slice]:
        """The slices of the delivery that need not be packed again, by the chunk of the keep list that they hold."""
        table = SliceRecord
        query = select(table.chunk, table.id, table.prefix, table.samples, table.split, table.bucket)
        query = query.where(table.delivery == delivery, table.chunk != "", table.state != "withdrawn")
        with self._transaction() as connection:
            return {row.chunk: Slice(*row[1:]) for row in connection.execute(query)}

    def stage_slice(self, delivery: str, piece: Slice, chunk: str, members: Iterable[tuple[str, str, int]]) -> None:
        """Records a slice that is packed but does not count yet; `members` are (image id, shard file, place in it)."""
        values = {"prefix": piece.prefix, "split": piece.split, "samples": piece.samples}
        values |= {"bucket": piece.bucket, "chunk": chunk}
        with self._transaction() as connection:
            statement = insert(SliceRecord).values(delivery=delivery, id=piece.id, state="staged", **values)
            connection.execute(statement.on_conflict_do_update(index_elements=["delivery", "id"], set_=values))
            write_members(connection, delivery, piece.id, members)

    def commit_slices(self, delivery: str, slices: Sequence[Slice]) -> None:
        """Makes these the delivery's current slices and all its older ones 'replaced', in one transaction."""
        with self._transaction() as connection:
            lock_delivery(connection, delivery)
            table = SliceRecord
            live = (table.delivery == delivery) & (table.state != "withdrawn")
            connection.execute(update(table).where(live, table.state == "current").values(state="replaced"))
            for piece in slices:
                values = {"prefix": piece.prefix, "split": piece.split, "samples": piece.samples}
                values |= {"bucket": piece.bucket, "state": "current"}
                statement = insert(table).values(delivery=delivery, id=piece.id, **values)
                written = connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=["delivery", "id"], set_=values, where=table.state != "withdrawn"
                    )
                )
                if written.rowcount == 0:
                    raise BackdropError(
                        f"the slice {piece.id[:12]} of '{delivery}' was withdrawn while it was packed",
                        "run again: what was taken down is left out",
                    )
            set_state(connection, delivery, "filtered")

    def slices(self, split: str | None = None, delivery: str | None = None) -> list[Slice]:
        """The current slices, of one split or delivery if asked, in the order of delivery, split, bucket and id."""
        table = SliceRecord
        query = (
            select(table.id, table.prefix, table.samples, table.split, table.bucket)
            .where(table.state == "current")
            .order_by(table.delivery, table.split, table.bucket, table.id)
        )
        if split is not None:
            query = query.where(table.split == split)
        if delivery is not None:
            query = query.where(table.delivery == delivery)
        with self._transaction() as connection:
            return [Slice(*row) for row in connection.execute(query)]

    def members(self, slice_id: str) -> list[str]:
        """Ids of the images in a slice."""
        query = select(SliceMember.image_id).where(SliceMember.slice_id == slice_id).distinct()
        with self._transaction() as connection:
            return list(connection.scalars(query.order_by(SliceMember.image_id)))

    def add_dataset_version(self, version: DatasetVersion) -> None:
        """Records a dataset version; one that is there stays as it is, for it is named by its content."""
        statement = insert(DatasetVersionRecord).values(
            version=version.version,
            samples=version.samples,
            slices=[asdict(piece) for piece in version.slices],
        )
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_nothing())

    def dataset_version(self, version: str) -> DatasetVersion | None:
        """The dataset version of this hash."""
        table = DatasetVersionRecord
        with self._transaction() as connection:
            row = connection.execute(select(table.slices, table.samples).where(table.version == version)).one_or_none()
        if row is None:
            return None
        return DatasetVersion(version, tuple(Slice(**piece) for piece in row.slices), row.samples)

    def record_model(
        self, id: str, asset: str, data_version: str, dataset_version: str, mlflow_run: str | None = None
    ) -> None:
        """Records which asset made the bundle `id`, from which dataset version, in which MLflow run."""
        values = {
            "asset": asset,
            "data_version": data_version,
            "dataset_version": dataset_version,
            "mlflow_run": mlflow_run,
        }
        statement = insert(ModelRecord).values(id=id, **values)
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))

    def models(self, dataset_version: str | None = None) -> list[Model]:
        """The recorded models, oldest first; of one dataset version if asked."""
        m = ModelRecord
        query = select(m.id, m.asset, m.data_version, m.dataset_version, m.mlflow_run, m.created_at)
        if dataset_version is not None:
            query = query.where(m.dataset_version == dataset_version)
        with self._transaction() as connection:
            return [Model(*row) for row in connection.execute(query.order_by(m.created_at, m.id))]


def write_members(
    connection: Connection, delivery: str, slice_id: str, members: Iterable[tuple[str, str, int]]
) -> None:
    """Records what a slice holds: (image id, shard file, place in it)."""
    stage(connection, "members", _MEMBER, members)
    connection.execute(text(_WRITE_MEMBERS), {"delivery": delivery, "slice": slice_id})
