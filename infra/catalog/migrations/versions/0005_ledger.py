"""The promotion ledger, which only ever grows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    kinds = "'intent', 'done', 'abandoned', 'refused', 'found', 'approved', 'rejected'"
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(), sa.CheckConstraint(f"kind IN ({kinds})", name="ck_ledger_kind"), nullable=False),
        sa.Column("intent", sa.BigInteger(), sa.ForeignKey("ledger.id", name="fk_ledger_intent")),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("from_version", sa.String()),
        sa.Column("to_version", sa.String()),
        sa.Column("bundle", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
    )
    op.create_index("ix_ledger_model_alias", "ledger", ["model", "alias", "id"])
    op.create_index(
        "uq_ledger_intent", "ledger", ["intent"], unique=True, postgresql_where=sa.text("intent IS NOT NULL")
    )
    op.execute(
        "CREATE FUNCTION ledger_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'the ledger only grows: % is refused', TG_OP USING ERRCODE = 'restrict_violation'; END $$"
    )
    # Per statement: also one that would hit no row, and TRUNCATE, which no row trigger sees.
    op.execute(
        "CREATE TRIGGER ledger_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_only_grows()"
    )
