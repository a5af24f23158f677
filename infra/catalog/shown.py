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

        Nothing says which slice of the scan a picture was in, so all of the delivery's are scanned again; what is
        known already is compared, not written twice.
        """
        waiting = select(func.count()).where(Quarantined.delivery == delivery)
        with self._transaction() as connection:
            count = connection.scalar(waiting) or 0
            if count:
                connection.execute(delete(ScannedSlice).where(ScannedSlice.delivery == delivery))
            return count
