"""The catalog's tables (SQLAlchemy 2). Migrations in `migrations/` make them; a test holds the two together."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Names that a migration can refer to, whatever PostgreSQL would have chosen.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


Blob = bytes  # where a column has that name


class Base(DeclarativeBase):
    """Text for str, jsonb for dicts and lists, time stamps with zone."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy declares it so
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: JSONB,
        list[dict[str, Any]]: JSONB,
    }


class DeliveryRecord(Base):
    """A batch of images that was handed in: a folder, a prefix, or a rendered catalogue."""

    __tablename__ = "deliveries"

    name: Mapped[str] = mapped_column(primary_key=True)
    uri: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="open")
    added_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Image(Base):
    """An image by content. `phash` is a 64-bit perceptual hash in a signed column; `sketch` a very small copy.

    `bytes`, `format`, `width` and `height` are those of the upright picture without metadata; the last three are empty
    and 0 where it cannot be decoded.
    """

    __tablename__ = "images"

    id: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    phash: Mapped[int | None] = mapped_column(BigInteger)
    sketch: Mapped[Blob | None] = mapped_column(LargeBinary)


class Sighting(Base):
    """One picture of one delivery; the same image may be sighted many times.

    `image_id` is known once its bytes were scanned, `etag` changes when they do. `problem` says why a row of a
    manifest cannot be a picture. `cleaned` are the captions after the caption filter, where it changed them.
    """

    __tablename__ = "sightings"
    __table_args__ = (
        Index("uq_sightings_delivery_uri", "delivery", "uri", unique=True),
        # Not while they are only listed: millions of rows that are not scanned yet need no entry.
        Index("ix_sightings_image_id", "image_id", postgresql_where=text("image_id IS NOT NULL")),
        CheckConstraint("split IN ('train', 'holdout')", name="split"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    delivery: Mapped[str]
    uri: Mapped[str] = mapped_column(Text(collation="C"))
    image_id: Mapped[str | None]
    etag: Mapped[str] = mapped_column(server_default="")
    problem: Mapped[str] = mapped_column(server_default="")
    licence: Mapped[str]
    source: Mapped[str]
    captions: Mapped[list[str]]
    cleaned: Mapped[list[str] | None]
    mask_uri: Mapped[str | None]
    attributes: Mapped[dict[str, Any]]
    split: Mapped[str]


class Verdict(Base):
    """What one filter decided about one sighting, and why. No foreign keys: they would cost more than the row."""

    __tablename__ = "verdicts"
    __table_args__ = (
        CheckConstraint("decision IN ('keep', 'drop', 'fix', 'unsure', 'not scored')", name="decision"),
        Index("ix_verdicts_delivery_filter", "delivery", "filter"),
        Index("ix_verdicts_image_id", "image_id"),
    )

    sighting: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    filter: Mapped[str] = mapped_column(primary_key=True)
    delivery: Mapped[str]
    image_id: Mapped[str | None]
    filter_version: Mapped[str]
    decision: Mapped[str]
    score: Mapped[float | None]
    reason: Mapped[str]
    detail: Mapped[dict[str, Any] | None]


class ScannedSlice(Base):
    """A slice of a delivery that was scanned; `id` is the hash of what was scanned and how."""

    __tablename__ = "scanned_slices"

    delivery: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    sightings: Mapped[int]
    scanned_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Quarantined(Base):
    """What could not be decoded: its bytes lie in the object store under `key`, empty where there were none.

    `slice_id`: the slice of the scan that found it; empty where an earlier version did not write it down.
    """

    __tablename__ = "quarantine"
    __table_args__ = (Index("ix_quarantine_image_id", "image_id"), Index("ix_quarantine_delivery", "delivery"))

    sighting: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    delivery: Mapped[str]
    uri: Mapped[str]
    image_id: Mapped[str | None]
    reason: Mapped[str]
    detail: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    key: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    slice_id: Mapped[str] = mapped_column(server_default="")


class Caption(Base):
    """A caption that a captioner wrote for an image; the delivered ones stay with the sighting."""

    __tablename__ = "captions"

    image_id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Mask(Base):
    """A product mask that a segmenter cut for an image, a PNG under `key`; empty where it was not sure."""

    __tablename__ = "masks"

    image_id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    confidence: Mapped[float]
    key: Mapped[str]


class Copy(Base):
    """A copy: `image_id` of the delivery shows what `of` shows. Near duplicates have a `distance` and a `residual`,
    semantic ones the `similarity` of their embeddings.

    `better`: the copy would have won, but `of` came in an earlier delivery and is not swapped.
    """

    __tablename__ = "copies"
    __table_args__ = (Index("ix_copies_of", "of"),)

    delivery: Mapped[str] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(primary_key=True)
    of: Mapped[str]
    distance: Mapped[int | None]
    residual: Mapped[float | None]
    better: Mapped[bool]
    similarity: Mapped[float | None]


class Kept(Base):
    """The keep list: which sighting of each image of a delivery is packed, and into which aspect-ratio bucket."""

    __tablename__ = "kept"

    delivery: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(primary_key=True)
    sighting: Mapped[int] = mapped_column(BigInteger)


class SliceRecord(Base):
    """A slice of packed shards. 'staged' until all of a delivery's are there; 'replaced' ones no longer count.

    `chunk` is the hash of what was to be packed, by which a re-run knows what is done.
    """

    __tablename__ = "slices"
    __table_args__ = (
        CheckConstraint("split IN ('train', 'holdout')", name="split"),
        CheckConstraint("state IN ('staged', 'current', 'replaced', 'withdrawn')", name="state"),
        Index("ix_slices_current", "split", "delivery", postgresql_where=text("state = 'current'")),
        Index("ix_slices_chunk", "delivery", "chunk"),
    )

    delivery: Mapped[str] = mapped_column(ForeignKey("deliveries.name"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    prefix: Mapped[str]
    split: Mapped[str]
    samples: Mapped[int]
    bucket: Mapped[str] = mapped_column(server_default="")
    chunk: Mapped[str] = mapped_column(server_default="")
    state: Mapped[str] = mapped_column(server_default="current")
    committed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SliceMember(Base):
    """Which images a slice holds: the shard file and the place in it (None where the slice was merely adopted)."""

    __tablename__ = "slice_members"
    __table_args__ = (
        ForeignKeyConstraint(["delivery", "slice_id"], ["slices.delivery", "slices.id"], ondelete="CASCADE"),
        Index("ix_slice_members_image_id", "image_id"),
    )

    delivery: Mapped[str] = mapped_column(primary_key=True)
    slice_id: Mapped[str] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(primary_key=True)
    shard: Mapped[str | None]
    place: Mapped[int | None]


class Takedown(Base):
    """An order to forget images. Takes effect at once; `finished_at` when their bytes are gone everywhere."""

    __tablename__ = "takedowns"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    target: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    report: Mapped[dict[str, Any] | None]


class TakenDown(Base):
    """An image that must not be used any more: the skip list that every reader honours."""

    __tablename__ = "taken_down"

    image_id: Mapped[str] = mapped_column(primary_key=True)
    takedown: Mapped[int] = mapped_column(ForeignKey("takedowns.id"))


class Shown(Base):
    """Which images a stored picture or page shows, so that a takedown finds it."""

    __tablename__ = "shown"
    __table_args__ = (Index("ix_shown_image_id", "image_id"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(primary_key=True)


class DatasetVersionRecord(Base):
    """An immutable list of slices under its content hash. `withdrawn`: why it may not be loaded any more."""

    __tablename__ = "dataset_versions"

    version: Mapped[str] = mapped_column(primary_key=True)
    samples: Mapped[int]
    slices: Mapped[list[dict[str, Any]]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    withdrawn: Mapped[str | None]


class CheckpointRecord(Base):
    """The hash of record of a checkpoint's manifest. `run` names the stage of a training whose checkpoint it is."""

    __tablename__ = "checkpoints"

    run: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    saved_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ModelRecord(Base):
    """A model or an engine, by its bundle's id, and the dataset version that it saw."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    asset: Mapped[str]
    data_version: Mapped[str]
    dataset_version: Mapped[str] = mapped_column(ForeignKey("dataset_versions.version"), index=True)
    mlflow_run: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LedgerRecord(Base):
    """One entry of the promotion ledger. The database refuses to change or delete one (migration 0005).

    An 'intent' is written before an alias is moved, and closed by the 'done' or 'abandoned' row whose `intent` it is.
    'found': the alias had been moved by somebody else. `verified`: the actor has signed; otherwise it is only a name.
    """

    __tablename__ = "ledger"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('intent', 'done', 'abandoned', 'refused', 'found', 'approved', 'rejected')", name="kind"
        ),
        Index("ix_ledger_model_alias", "model", "alias", "id"),
        # Two processes may both find a killed one's intent; only one of them closes it.
        Index("uq_ledger_intent", "intent", unique=True, postgresql_where=text("intent IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    kind: Mapped[str]
    intent: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("ledger.id"))
    model: Mapped[str]
    alias: Mapped[str]
    from_version: Mapped[str | None]
    to_version: Mapped[str | None]
    bundle: Mapped[str]
    actor: Mapped[str]
    verified: Mapped[bool]
    reason: Mapped[str]
    evidence: Mapped[dict[str, Any]]
    run: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AlertRecord(Base):
    """What somebody has to be told of: one row per cause, a new one where a cause that had ended came again.

    `since`: when it began, `ended_at`: when it was seen to be over; what happens once has no end. `waiting`: the
    destinations that no message about it was written for yet.
    """

    __tablename__ = "alerts"
    __table_args__ = (
        Index("uq_alerts_cause", "cause", unique=True, postgresql_where=text("ended_at IS NULL")),
        Index("ix_alerts_waiting", "id", postgresql_where=text("waiting <> '[]'")),
        Index("ix_alerts_cause", "cause"),
        Index("ix_alerts_open", "kind", postgresql_where=text("ended_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    cause: Mapped[str]
    kind: Mapped[str]
    title: Mapped[str]
    detail: Mapped[str]
    links: Mapped[dict[str, Any]]
    since: Mapped[datetime]
    noticed_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    waiting: Mapped[list[str]]


class AlertMessageRecord(Base):
    """One message to one destination, about one alert or, in a storm, many: written before it is sent for the first
    time, and sent again until `sent_at` stands or it is given up. `problem`: why the last try failed.
    """

    __tablename__ = "alert_messages"
    __table_args__ = (
        Index("ix_alert_messages_due", "destination", "written_at", postgresql_where=text("sent_at IS NULL")),
        Index("ix_alert_messages_taken", "destination", "sent_at"),
        Index("ix_alert_messages_written", "destination", "kind", "written_at"),
        Index(
            "ix_alert_messages_alerts",
            "alerts",
            postgresql_using="gin",
            postgresql_ops={"alerts": "jsonb_path_ops"},
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    destination: Mapped[str]
    kind: Mapped[str]
    alerts: Mapped[list[int]] = mapped_column(JSONB)
    notice: Mapped[dict[str, Any]]
    written_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(server_default="0")
    next_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    problem: Mapped[str] = mapped_column(server_default="")
