"""The catalog on what a retraining would learn from: the slices that count now, and how many images of them are new."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import select, text

from infra.catalog.connection import CatalogDatabase
from infra.catalog.models import DatasetVersionRecord, DeliveryRecord, SliceRecord
from infra.shards import Slice

# Only members of slices that the version does not list are looked at, each by the index on its id: the cost goes with
# what is new, not with all there is. An image that moved to another slice is not new.
_NEW = """
    WITH seen AS (
        SELECT piece ->> 'id' AS id FROM dataset_versions v, jsonb_array_elements(v.slices) piece
        WHERE v.version = :version AND piece ->> 'split' = 'train'
    ), fresh AS (
        SELECT DISTINCT m.image_id FROM slice_members m
        WHERE m.slice_id = ANY(:slices) AND m.slice_id NOT IN (SELECT id FROM seen)
    )
    SELECT count(*) FROM fresh f WHERE NOT EXISTS (
        SELECT FROM slice_members o JOIN seen ON seen.id = o.slice_id WHERE o.image_id = f.image_id
    )
"""


@dataclass(frozen=True)
class Piece:
    """A current slice with the delivery that it belongs to."""

    delivery: str
    kind: str
    slice: Slice


@dataclass(frozen=True)
class Growth:
    """How a dataset version has grown: images that it has for training, and images that came since."""

    seen: int
    new: int

    @property
    def share(self) -> float:
        """New images over those seen; without any, everything is new."""
        return self.new / self.seen if self.seen else float("inf")


class Mix(CatalogDatabase):
    """What counts now, over all deliveries at once."""

    def pieces(self) -> list[Piece]:
        """The current slices of all deliveries, in the order of delivery, split, bucket and id: one query."""
        s, d = SliceRecord, DeliveryRecord
        query = (
            select(s.delivery, d.kind, s.id, s.prefix, s.samples, s.split, s.bucket)
            .join(d, d.name == s.delivery)
            .where(s.state == "current")
            .order_by(s.delivery, s.split, s.bucket, s.id)
        )
        with self._transaction() as connection:
            return [Piece(row[0], row[1], Slice(*row[2:])) for row in connection.execute(query)]

    def growth(self, version: str, slices: Collection[Slice]) -> Growth:
        """How many images the training slices among `slices` have that the dataset version has not."""
        known = self._version_slices(version)
        added = [piece.id for piece in slices if piece.split == "train" and piece.id not in known]
        with self._transaction() as connection:
            new = connection.scalar(text(_NEW), {"version": version, "slices": added}) if added else 0
        return Growth(sum(known.values()), int(new or 0))

    def withdrawn_versions(self) -> Mapping[str, str]:
        """Dataset versions that must not be used any more, each with the reason."""
        table = DatasetVersionRecord
        query = select(table.version, table.withdrawn).where(table.withdrawn.is_not(None))
        with self._transaction() as connection:
            return {version: str(why) for version, why in connection.execute(query)}

    def _version_slices(self, version: str) -> dict[str, int]:
        """Training slice of the dataset version → its samples; nothing for one that is not recorded."""
        table = DatasetVersionRecord
        with self._transaction() as connection:
            found = connection.scalar(select(table.slices).where(table.version == version)) or []
        return {str(piece["id"]): int(piece["samples"]) for piece in found if piece["split"] == "train"}
