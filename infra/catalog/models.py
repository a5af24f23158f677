"""The catalog's tables (SQLAlchemy 2). Migrations in `migrations/` make them; a test holds the two together."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, MetaData, func, text
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
    """An image by content. `phash` is a 64-bit perceptual hash, kept in a signed column."""

    __tablename__ = "images"

    id: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    phash: Mapped[int | None] = mapped_column(BigInteger)


class Sighting(Base):
    """One picture of one delivery; the same image may be sighted many times."""

    __tablename__ = "sightings"
    __table_args__ = (
        Index("uq_sightings_delivery_uri", "delivery", "uri", unique=True),
        CheckConstraint("split IN ('train', 'holdout')", name="split"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    delivery: Mapped[str] = mapped_column(ForeignKey("deliveries.name"))
    uri: Mapped[str]
    image_id: Mapped[str | None] = mapped_column(ForeignKey("images.id"), index=True)
    licence: Mapped[str]
    source: Mapped[str]
    captions: Mapped[list[str]]
    mask_uri: Mapped[str | None]
    attributes: Mapped[dict[str, Any]]
    split: Mapped[str]


class Verdict(Base):
    """What one filter decided about one image of one delivery, and why."""

    __tablename__ = "verdicts"
    __table_args__ = (
        CheckConstraint("decision IN ('keep', 'drop', 'fix', 'unsure')", name="decision"),
        Index("ix_verdicts_image_id", "image_id"),
    )

    delivery: Mapped[str] = mapped_column(ForeignKey("deliveries.name"), primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    filter: Mapped[str] = mapped_column(primary_key=True)
    filter_version: Mapped[str]
    decision: Mapped[str]
    score: Mapped[float | None]
    reason: Mapped[str]


class SliceRecord(Base):
    """A committed slice of shards. 'replaced' ones no longer count, but their objects and members are known."""

    __tablename__ = "slices"
    __table_args__ = (
        CheckConstraint("split IN ('train', 'holdout')", name="split"),
        CheckConstraint("state IN ('current', 'replaced')", name="state"),
        Index("ix_slices_current", "split", "delivery", postgresql_where=text("state = 'current'")),
    )

    delivery: Mapped[str] = mapped_column(ForeignKey("deliveries.name"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    prefix: Mapped[str]
    split: Mapped[str]
    samples: Mapped[int]
    state: Mapped[str] = mapped_column(server_default="current")
    committed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SliceMember(Base):
    """Which images a slice holds."""

    __tablename__ = "slice_members"
    __table_args__ = (
        ForeignKeyConstraint(["delivery", "slice_id"], ["slices.delivery", "slices.id"], ondelete="CASCADE"),
        Index("ix_slice_members_image_id", "image_id"),
    )

    delivery: Mapped[str] = mapped_column(primary_key=True)
    slice_id: Mapped[str] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)


class DatasetVersionRecord(Base):
    """An immutable list of slices under its content hash."""

    __tablename__ = "dataset_versions"

    version: Mapped[str] = mapped_column(primary_key=True)
    samples: Mapped[int]
    slices: Mapped[list[dict[str, Any]]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ModelRecord(Base):
    """A model or an engine, by its bundle's id, and the dataset version that it saw."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    asset: Mapped[str]
    data_version: Mapped[str]
    dataset_version: Mapped[str] = mapped_column(ForeignKey("dataset_versions.version"), index=True)
    mlflow_run: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
