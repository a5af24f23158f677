"""What people were told of, and the messages that are on their way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    at = sa.TIMESTAMP(timezone=True)
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("links", postgresql.JSONB(), nullable=False),
        sa.Column("since", at, nullable=False),
        sa.Column("noticed_at", at, nullable=False),
        sa.Column("ended_at", at),
        sa.Column("waiting", postgresql.JSONB(), nullable=False),
    )
    # One open row per cause, whoever notices it first.
    op.create_index("uq_alerts_cause", "alerts", ["cause"], unique=True, postgresql_where=sa.text("ended_at IS NULL"))
    op.create_index("ix_alerts_waiting", "alerts", ["id"], postgresql_where=sa.text("waiting <> '[]'"))
    op.create_table(
        "alert_messages",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("alerts", postgresql.JSONB(), nullable=False),
        sa.Column("notice", postgresql.JSONB(), nullable=False),
        sa.Column("written_at", at, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", at, nullable=False),
        sa.Column("sent_at", at),
        sa.Column("problem", sa.String(), server_default="", nullable=False),
    )
    op.create_index("ix_alert_messages_due", "alert_messages", ["next_at"], postgresql_where=sa.text("sent_at IS NULL"))
