"""Alembic's entry: the connection comes from :func:`infra.catalog.migrate.upgrade`, which holds the transaction."""

from alembic import context

from infra.catalog.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
