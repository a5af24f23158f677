"""Brings the catalog's tables to this code's version. Alembic is imported only when there is something to do."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, text

from infra.errors import BackdropError

HEAD = "0007"
"""The newest revision in `migrations/versions` (a test holds it)."""

_LOCK = 0x6261636B64726F70  # "backdrop": any number that everybody agrees on


def is_current(connection: Connection) -> bool:
    """Whether the database is at :data:`HEAD`."""
    return _revision(connection) == HEAD


def upgrade(connection: Connection) -> None:
    """Runs the missing migrations in the caller's transaction, one process at a time."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    if is_current(connection):  # somebody else was quicker
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    revision = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise BackdropError(
            f"the catalog database is at revision {revision}, which this version of Backdrop does not know",
            "update Backdrop: a newer version has used this database",
        )
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))
