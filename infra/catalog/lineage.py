"""The catalog's second half: what was made of the images (slices, dataset versions, models)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.bulk import stage
from infra.catalog.connection import CatalogDatabase, lock_delivery, set_state
from infra.catalog.models import DatasetVersionRecord, ModelRecord, SliceMember, SliceRecord
from infra.catalog.rows import Model
from infra.shards import DatasetVersion, Slice

_WRITE_MEMBERS = """
    INSERT INTO slice_members (delivery, slice_id, image_id)
    SELECT DISTINCT :delivery, slice_id, image_id FROM members ORDER BY slice_id, image_id
    ON CONFLICT DO NOTHING
"""


class Lineage(CatalogDatabase):
    """Slices and their members, dataset versions, models."""

    def commit_slices(
        self, delivery: str, slices: Sequence[Slice], members: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """Makes these the delivery's current slices and all its older ones 'replaced', in one transaction.

        `members` tells by slice id which images a slice holds; near duplicates in later deliveries and takedowns
        are looked up there.
        """
        pairs = [(piece, image) for piece, images in (members or {}).items() for image in images]
        with self._transaction() as connection:
            lock_delivery(connection, delivery)
            table = SliceRecord
            connection.execute(update(table).where(table.delivery == delivery).values(state="replaced"))
            for piece in slices:
                values = {"prefix": piece.prefix, "split": piece.split, "samples": piece.samples}
                values |= {"state": "current"}
                statement = insert(table).values(delivery=delivery, id=piece.id, **values)
                connection.execute(statement.on_conflict_do_update(index_elements=["delivery", "id"], set_=values))
            stage(connection, "members", [("slice_id", "text"), ("image_id", "text")], pairs)
            connection.execute(text(_WRITE_MEMBERS), {"delivery": delivery})
            set_state(connection, delivery, "filtered")

    def slices(self, split: str | None = None, delivery: str | None = None) -> list[Slice]:
        """The current slices, of one split or delivery if asked, in the order of delivery, split and id."""
        table = SliceRecord
        query = (
            select(table.id, table.prefix, table.samples, table.split)
            .where(table.state == "current")
            .order_by(table.delivery, table.split, table.id)
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
