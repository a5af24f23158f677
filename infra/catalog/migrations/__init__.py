"""Alembic migrations of the catalog, run by `infra.catalog.migrate`."""
