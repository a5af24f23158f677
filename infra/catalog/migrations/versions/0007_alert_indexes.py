"""What is looked at twice a minute is found without reading what was told long ago."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_alerts_cause", "alerts", ["cause"])
    op.create_index("ix_alerts_open", "alerts", ["kind"], postgresql_where=sa.text("ended_at IS NULL"))
    op.create_index("ix_alert_messages_taken", "alert_messages", ["destination", "sent_at"])
    op.create_index("ix_alert_messages_written", "alert_messages", ["destination", "kind", "written_at"])
    op.create_index(
        "ix_alert_messages_alerts",
        "alert_messages",
        ["alerts"],
        postgresql_using="gin",
        postgresql_ops={"alerts": "jsonb_path_ops"},
    )
    # By the date: one that was given up is never sent, and stays.
    op.drop_index("ix_alert_messages_due", "alert_messages")
    op.create_index(
        "ix_alert_messages_due",
        "alert_messages",
        ["destination", "written_at"],
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    # Their causes are named in another way now: what is counted still is told of once more.
    op.execute("UPDATE alerts SET ended_at = now() WHERE ended_at IS NULL AND cause ~ '^(fallback|pixels):studio:'")
