"""Semantic duplicates among the copies; the slice that a quarantined picture was scanned in.

Their embeddings are no part of the migrations: see :mod:`infra.catalog.embeddings`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("copies", sa.Column("similarity", sa.Double()))
    op.alter_column("copies", "distance", nullable=True, existing_type=sa.Integer())
    op.alter_column("copies", "residual", nullable=True, existing_type=sa.Double())
    op.add_column("quarantine", sa.Column("slice_id", sa.String(), server_default="", nullable=False))
