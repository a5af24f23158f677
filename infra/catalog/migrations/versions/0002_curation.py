"""Curation in slices: scan commits, quarantine, captions, masks, copies, keep list, takedowns, withdrawn versions.

Verdicts move from the image to the sighting; the old ones are dropped, for materialising filtered_shards makes them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = postgresql.TIMESTAMP(timezone=True)
_NOW = sa.text("now()")


def upgrade() -> None:
    op.add_column("images", sa.Column("sketch", sa.LargeBinary()))
    _sightings()
    _verdicts()
    _scanned()
    _made_of_images()
    _slices()
    _takedowns()


def _sightings() -> None:
    # Foreign keys cost a lookup for each of millions of rows; what writes them checks the delivery once instead.
    op.drop_constraint("fk_sightings_delivery", "sightings")
    op.drop_constraint("fk_sightings_image_id", "sightings")
    op.drop_index("ix_sightings_image_id", "sightings")
    op.create_index(
        "ix_sightings_image_id", "sightings", ["image_id"], postgresql_where=sa.text("image_id IS NOT NULL")
    )
    op.alter_column("sightings", "uri", type_=sa.Text(collation="C"), existing_nullable=False)
    op.add_column("sightings", sa.Column("etag", sa.String(), server_default="", nullable=False))
    op.add_column("sightings", sa.Column("problem", sa.String(), server_default="", nullable=False))
    op.add_column("sightings", sa.Column("cleaned", postgresql.JSONB()))


def _verdicts() -> None:
    op.drop_table("verdicts")
    op.create_table(
        "verdicts",
        sa.Column("sighting", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("filter", sa.String(), nullable=False),
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("image_id", sa.String()),
        sa.Column("filter_version", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("score", sa.Double()),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", postgresql.JSONB()),
        sa.CheckConstraint(
            "decision IN ('keep', 'drop', 'fix', 'unsure', 'not scored')", name=op.f("ck_verdicts_decision")
        ),
        sa.PrimaryKeyConstraint("sighting", "filter", name=op.f("pk_verdicts")),
    )
    op.create_index("ix_verdicts_delivery_filter", "verdicts", ["delivery", "filter"])
    op.create_index("ix_verdicts_image_id", "verdicts", ["image_id"])


def _scanned() -> None:
    op.create_table(
        "scanned_slices",
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("sightings", sa.Integer(), nullable=False),
        sa.Column("scanned_at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("delivery", "id", name=op.f("pk_scanned_slices")),
    )
    op.create_table(
        "quarantine",
        sa.Column("sighting", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("image_id", sa.String()),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("sighting", name=op.f("pk_quarantine")),
    )
    op.create_index("ix_quarantine_image_id", "quarantine", ["image_id"])
    op.create_index("ix_quarantine_delivery", "quarantine", ["delivery"])


def _made_of_images() -> None:
    op.create_table(
        "captions",
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("image_id", "source", name=op.f("pk_captions")),
    )
    op.create_table(
        "masks",
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "source", name=op.f("pk_masks")),
    )
    op.create_table(
        "copies",
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("of", sa.String(), nullable=False),
        sa.Column("distance", sa.Integer(), nullable=False),
        sa.Column("residual", sa.Double(), nullable=False),
        sa.Column("better", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("delivery", "image_id", name=op.f("pk_copies")),
    )
    op.create_index("ix_copies_of", "copies", ["of"])
    op.create_table(
        "kept",
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("sighting", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("delivery", "bucket", "split", "image_id", name=op.f("pk_kept")),
    )
    op.create_table(
        "shown",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key", "image_id", name=op.f("pk_shown")),
    )
    op.create_index("ix_shown_image_id", "shown", ["image_id"])


def _slices() -> None:
    op.add_column("slices", sa.Column("bucket", sa.String(), server_default="", nullable=False))
    op.add_column("slices", sa.Column("chunk", sa.String(), server_default="", nullable=False))
    op.drop_constraint("ck_slices_state", "slices")
    op.create_check_constraint(
        op.f("ck_slices_state"), "slices", "state IN ('staged', 'current', 'replaced', 'withdrawn')"
    )
    op.create_index("ix_slices_chunk", "slices", ["delivery", "chunk"])
    op.drop_constraint("fk_slice_members_image_id", "slice_members")
    op.add_column("slice_members", sa.Column("shard", sa.String()))
    op.add_column("slice_members", sa.Column("place", sa.Integer()))
    op.add_column("dataset_versions", sa.Column("withdrawn", sa.String()))


def _takedowns() -> None:
    op.create_table(
        "takedowns",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("report", postgresql.JSONB()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_takedowns")),
    )
    op.create_table(
        "taken_down",
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("takedown", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["takedown"], ["takedowns.id"], name=op.f("fk_taken_down_takedown")),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_taken_down")),
    )
