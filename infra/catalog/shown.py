"""The catalog on pictures made of images (thumbnails, sample grids, reports), and on what waits in quarantine."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.connection import CatalogDatabase
from infra.catalog.models import DeliveryRecord, Quarantined, ScannedSlice, Shown, Sighting


class ShownPictures(CatalogDatabase):
    """Which stored pictures show which images, and whether they may be copied elsewhere."""

    def add_shown(self, shows: Mapping[str, Collection[str]]) -> None:
        """Records which images stored pictures show, by the pictures' keys."""
        rows = [{"key": key, "image_id": image_id} for key, ids in shows.items() for image_id in sorted(set(ids))]
        if rows:
            with self._transaction() as connection:
                connection.execute(insert(Shown).on_conflict_do_nothing(), rows)

    def forget_shown(self, keys: Collection[str]) -> None:
        """Drops what is known about pictures that are gone."""
        with self._transaction() as connection:
            connection.execute(delete(Shown).where(Shown.key.in_(list(keys))))

    def all_rendered(self, image_ids: Collection[str]) -> bool:
        """Whether each of these images comes from rendered catalogues and from nowhere else."""
        ids = set(image_ids)
        query = (
            select(Sighting.image_id)
            .outerjoin(DeliveryRecord, DeliveryRecord.name == Sighting.delivery)
            .where(Sighting.image_id.in_(ids))
            .group_by(Sighting.image_id)
            .having(func.bool_and(func.coalesce(DeliveryRecord.kind, "") == "sample"))
        )
        with self._transaction() as connection:
            return set(connection.scalars(query)) == ids

    def retry_quarantine(self, delivery: str) -> int:
        """Makes the next scan look at a delivery's quarantined pictures again; how many there are.

        The slices that hold them are scanned again. All of them, where an earlier version did not write down which.
        """
        s, q = ScannedSlice, Quarantined
        with self._transaction() as connection:
            slices = list(connection.scalars(select(q.slice_id).where(q.delivery == delivery)))
            forgotten = delete(s).where(s.delivery == delivery)
            if "" not in slices:
                forgotten = forgotten.where(s.id.in_(set(slices)))
            connection.execute(forgotten)
            return len(slices)
