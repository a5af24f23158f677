"""The catalog on what must leave: the order, the skip list, and everything that an image has got into.

An order takes effect in one transaction: its images are on the skip list, the dataset versions that hold them are
withdrawn, and no keep list names them. The rest (bytes) is carried out step by step and may be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from infra.catalog.connection import CatalogDatabase
from infra.catalog.embeddings import forget_embeddings
from infra.catalog.lineage import write_members
from infra.catalog.models import (
    Caption,
    Copy,
    DatasetVersionRecord,
    Image,
    Kept,
    Mask,
    Quarantined,
    Shown,
    Sighting,
    SliceMember,
    SliceRecord,
    Takedown,
    TakenDown,
)
from infra.shards import Slice

_VERSIONS = """
    SELECT DISTINCT v.version FROM dataset_versions v, jsonb_array_elements(v.slices) piece
    JOIN slice_members m ON m.slice_id = piece ->> 'id' WHERE m.image_id = ANY(:ids)
"""
_TRAINED = f"{_VERSIONS} AND piece ->> 'split' = 'train'"
_WITHDRAW = f"UPDATE dataset_versions SET withdrawn = :reason WHERE withdrawn IS NULL AND version IN ({_VERSIONS})"


@dataclass(frozen=True)
class TakedownRow:
    """An order to forget images; `finished_at` once their bytes are gone."""

    id: int
    target: str
    reason: str
    at: datetime
    finished_at: datetime | None

    @property
    def why(self) -> str:
        """What is written on everything that the takedown withdraws."""
        return f"takedown {self.id}: {self.reason}"


@dataclass(frozen=True)
class HoldingSlice:
    """A slice that holds images of a takedown. `state` as in the catalog; 'withdrawn' once it was replaced."""

    delivery: str
    piece: Slice
    state: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """Where images are. `versions` hold them; `trained` are those of them that hold them for training."""

    slices: list[HoldingSlice] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)  # store keys
    quarantine: list[str] = field(default_factory=list)  # store keys
    masks: list[str] = field(default_factory=list)  # store keys
    captions: int = 0
    sightings: list[tuple[str, str | None]] = field(default_factory=list)  # URI, mask's URI
    alike: list[str] = field(default_factory=list)  # near and semantic duplicates, which the order does not name


class Takedowns(CatalogDatabase):
    """Orders, what holds their images, and what the catalog itself forgets."""

    # ── ordering ──────────────────────────────────────────────────────────────────────────────────────────────

    def images_at(self, prefixes: Collection[str]) -> tuple[list[str], list[str]]:
        """Images sighted at a URI, or from a source, that begins with one of the prefixes, and the URIs of pictures
        there that were not scanned yet, so that nobody knows their image."""
        match = or_(*(func.starts_with(column, p) for p in prefixes for column in (Sighting.uri, Sighting.source)))
        with self._transaction() as connection:
            known = connection.scalars(
                select(Sighting.image_id).where(match, Sighting.image_id.is_not(None)).distinct()
            )
            unknown = select(Sighting.uri).where(match, Sighting.image_id.is_(None), Sighting.problem == "")
            return sorted(i for i in known if i), sorted(connection.scalars(unknown))

    def is_image(self, image_id: str) -> bool:
        """Whether the catalog has met an image of this id, be it only in a picture that shows it."""
        found = select(Sighting.id).where(Sighting.image_id == image_id).limit(1)
        member = select(SliceMember.slice_id).where(SliceMember.image_id == image_id).limit(1)
        shown = select(Shown.key).where(Shown.image_id == image_id).limit(1)
        with self._transaction() as connection:
            return any(connection.execute(query).first() for query in (found, member, shown))

    def ordered_images(self, target: str) -> set[str]:
        """Images that earlier orders for the same target have put on the skip list."""
        query = select(TakenDown.image_id).join(Takedown, Takedown.id == TakenDown.takedown)
        with self._transaction() as connection:
            return set(connection.scalars(query.where(Takedown.target == target)))

    def order_takedown(self, target: str, reason: str, image_ids: Collection[str]) -> TakedownRow:
        """Puts the images on the skip list; the newest order for the same target goes on where nothing is new."""
        with self._transaction() as connection:
            connection.execute(text("LOCK TABLE takedowns IN SHARE ROW EXCLUSIVE MODE"))
            ids = sorted(image_ids)
            listed = set(connection.scalars(select(TakenDown.image_id).where(TakenDown.image_id.in_(ids))))
            order = _newest(connection, target)
            if order is None or (order.finished_at is not None and listed != set(ids)):
                made = insert(Takedown).values(target=target, reason=reason).returning(Takedown.id)
                connection.execute(made)
                order = _newest(connection, target)
            assert order is not None
            rows = [{"image_id": image_id, "takedown": order.id} for image_id in ids]
            connection.execute(insert(TakenDown).on_conflict_do_nothing(), rows)
            connection.execute(text(_WITHDRAW), {"ids": ids, "reason": order.why})
            connection.execute(delete(Kept).where(Kept.image_id.in_(ids)))
            return order

    def takedown_of(self, image_id: str) -> TakedownRow | None:
        """The order that an image was taken down by."""
        query = _orders().join(TakenDown, TakenDown.takedown == Takedown.id).where(TakenDown.image_id == image_id)
        with self._transaction() as connection:
            row = connection.execute(query).first()
            return TakedownRow(*row) if row else None

    def unfinished_takedowns(self) -> list[TakedownRow]:
        """Orders that have not been carried out to the end, oldest first."""
        query = _orders().where(Takedown.finished_at.is_(None)).order_by(Takedown.id)
        with self._transaction() as connection:
            return [TakedownRow(*row) for row in connection.execute(query)]

    def finish_takedown(self, takedown: int, report: Mapping[str, Any]) -> None:
        """Records that an order was carried out, and what was done; the first report of it stays."""
        values = {"finished_at": func.now(), "report": dict(report)}
        with self._transaction() as connection:
            mine = (Takedown.id == takedown) & Takedown.finished_at.is_(None)
            connection.execute(update(Takedown).where(mine).values(**values))

    def withdrawn(self, version: str) -> str | None:
        """Why a dataset version was withdrawn; None when it was not."""
        table = DatasetVersionRecord
        with self._transaction() as connection:
            return connection.scalar(select(table.withdrawn).where(table.version == version))

    # ── what holds them ───────────────────────────────────────────────────────────────────────────────────────

    def held(self, image_ids: Collection[str]) -> Held:
        """Everything of the catalog's knowledge that holds one of these images."""
        ids = sorted(image_ids)
        with self._transaction() as connection:
            return Held(
                slices=_slices(connection, ids),
                versions=sorted(connection.scalars(text(_VERSIONS), {"ids": ids})),
                trained=sorted(connection.scalars(text(_TRAINED), {"ids": ids})),
                pictures=_column(connection, Shown.key, Shown.image_id.in_(ids)),
                quarantine=_column(connection, Quarantined.key, Quarantined.image_id.in_(ids), Quarantined.key != ""),
                masks=_column(connection, Mask.key, Mask.image_id.in_(ids), Mask.key != ""),
                captions=connection.scalar(select(func.count()).where(Caption.image_id.in_(ids))) or 0,
                sightings=[
                    (uri, mask)
                    for uri, mask in connection.execute(
                        select(Sighting.uri, Sighting.mask_uri).where(Sighting.image_id.in_(ids)).order_by(Sighting.uri)
                    )
                ],
                alike=sorted(
                    set(_column(connection, Copy.image_id, Copy.of.in_(ids)))
                    | set(_column(connection, Copy.of, Copy.image_id.in_(ids))).difference(ids)
                ),
            )

    # ── carrying out ──────────────────────────────────────────────────────────────────────────────────────────

    def replace_slice(
        self, delivery: str, old: Slice, new: Slice | None, members: Iterable[tuple[str, str, int]] = ()
    ) -> None:
        """Withdraws a slice and puts `new`, if anything was left, in its place and state.

        `members` are (image id, shard file, place in it). The new slice belongs to no chunk of a keep list: packing
        that list again finds its bytes, or writes other slices in its stead.
        """
        table = SliceRecord
        mine = (table.delivery == delivery) & (table.id == old.id)
        with self._transaction() as connection:
            state = connection.scalar(select(table.state).where(mine).with_for_update())
            connection.execute(update(table).where(mine).values(state="withdrawn"))
            if new is None or state not in ("current", "staged"):
                return
            values = {"prefix": new.prefix, "split": new.split, "samples": new.samples, "bucket": new.bucket}
            statement = insert(table).values(delivery=delivery, id=new.id, state=state, **values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["delivery", "id"], set_={**values, "state": state})
            )
            write_members(connection, delivery, new.id, members)

    def forget_images(self, image_ids: Collection[str]) -> None:
        """Removes what the catalog itself holds of the pictures: small copies, embeddings, masks, captions, places of
        bytes.

        Where they came from and what was decided about them stays: it is the answer to who asks later.
        """
        ids = sorted(image_ids)
        with self._transaction() as connection:
            connection.execute(update(Image).where(Image.id.in_(ids)).values(sketch=None))
            connection.execute(update(Quarantined).where(Quarantined.image_id.in_(ids)).values(key="", bytes=0))
            for table in (Mask, Caption, Kept):
                connection.execute(delete(table).where(table.image_id.in_(ids)))
            tables = ["images", *forget_embeddings(connection, ids)]
        # PostgreSQL keeps the bytes of a replaced row until it is vacuumed.
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM {', '.join(tables)}"))

    def unclean_slices(self) -> list[str]:
        """Ids of current slices that hold images on the skip list: an order is not carried out, or a delivery was
        packed meanwhile."""
        s, m, t = SliceRecord, SliceMember, TakenDown
        query = (
            select(s.id)
            .join(m, (m.delivery == s.delivery) & (m.slice_id == s.id))
            .join(t, t.image_id == m.image_id)
            .where(s.state == "current")
        )
        with self._transaction() as connection:
            return sorted(set(connection.scalars(query)))

    def slice_ids(self) -> set[str]:
        """Ids of all slices that the catalog has heard of, whatever their state."""
        with self._transaction() as connection:
            return set(connection.scalars(select(SliceRecord.id)))


def _orders() -> Any:
    t = Takedown
    return select(t.id, t.target, t.reason, t.at, t.finished_at)


def _newest(connection: Connection, target: str) -> TakedownRow | None:
    row = connection.execute(_orders().where(Takedown.target == target).order_by(Takedown.id.desc()).limit(1)).first()
    return TakedownRow(*row) if row else None


def _slices(connection: Connection, ids: list[str]) -> list[HoldingSlice]:
    s, m = SliceRecord, SliceMember
    query = (
        select(s.delivery, s.state, func.array_agg(m.image_id), s.id, s.prefix, s.samples, s.split, s.bucket)
        .join(m, (m.delivery == s.delivery) & (m.slice_id == s.id))
        .where(m.image_id.in_(ids))
        .group_by(s.delivery, s.id)
        .order_by(s.delivery, s.id)
    )
    return [
        HoldingSlice(row.delivery, Slice(*row[3:]), row.state, tuple(sorted(row[2])))
        for row in connection.execute(query)
    ]


def _column(connection: Connection, column: Any, *where: Any) -> list[str]:
    return sorted(connection.scalars(select(column).where(*where).distinct()))
