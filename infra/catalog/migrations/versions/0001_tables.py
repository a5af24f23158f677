"""The first tables: deliveries, images, sightings, verdicts, slices, dataset versions, models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset_versions",
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("slices", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_dataset_versions")),
    )

    op.create_table(
        "deliveries",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), server_default="open", nullable=False),
        sa.Column("added_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_deliveries")),
    )

    op.create_table(
        "images",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("phash", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
    )

    op.create_table(
        "models",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("data_version", sa.String(), nullable=False),
        sa.Column("dataset_version", sa.String(), nullable=False),
        sa.Column("mlflow_run", sa.String(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_version"], ["dataset_versions.version"], name=op.f("fk_models_dataset_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_dataset_version"), "models", ["dataset_version"], unique=False)

    op.create_table(
        "sightings",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("uri", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=True),
        sa.Column("licence", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("captions", postgresql.JSONB(), nullable=False),
        sa.Column("mask_uri", sa.String(), nullable=True),
        sa.Column("attributes", postgresql.JSONB(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.CheckConstraint("split IN ('train', 'holdout')", name=op.f("ck_sightings_split")),
        sa.ForeignKeyConstraint(["delivery"], ["deliveries.name"], name=op.f("fk_sightings_delivery")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_sightings_image_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sightings")),
    )
    op.create_index(op.f("ix_sightings_image_id"), "sightings", ["image_id"], unique=False)
    op.create_index("uq_sightings_delivery_uri", "sightings", ["delivery", "uri"], unique=True)

    op.create_table(
        "slices",
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), server_default="current", nullable=False),
        sa.Column("committed_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("split IN ('train', 'holdout')", name=op.f("ck_slices_split")),
        sa.CheckConstraint("state IN ('current', 'replaced')", name=op.f("ck_slices_state")),
        sa.ForeignKeyConstraint(["delivery"], ["deliveries.name"], name=op.f("fk_slices_delivery")),
        sa.PrimaryKeyConstraint("delivery", "id", name=op.f("pk_slices")),
    )
    op.create_index(
        "ix_slices_current",
        "slices",
        ["split", "delivery"],
        unique=False,
        postgresql_where=sa.text("state = 'current'"),
    )

    op.create_table(
        "verdicts",
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("filter", sa.String(), nullable=False),
        sa.Column("filter_version", sa.String(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.CheckConstraint("decision IN ('keep', 'drop', 'fix', 'unsure')", name=op.f("ck_verdicts_decision")),
        sa.ForeignKeyConstraint(["delivery"], ["deliveries.name"], name=op.f("fk_verdicts_delivery")),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_verdicts_image_id")),
        sa.PrimaryKeyConstraint("delivery", "image_id", "filter", name=op.f("pk_verdicts")),
    )
    op.create_index("ix_verdicts_image_id", "verdicts", ["image_id"], unique=False)

    op.create_table(
        "slice_members",
        sa.Column("delivery", sa.String(), nullable=False),
        sa.Column("slice_id", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery", "slice_id"],
            ["slices.delivery", "slices.id"],
            name=op.f("fk_slice_members_delivery_slice_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_slice_members_image_id")),
        sa.PrimaryKeyConstraint("delivery", "slice_id", "image_id", name=op.f("pk_slice_members")),
    )
    op.create_index("ix_slice_members_image_id", "slice_members", ["image_id"], unique=False)
