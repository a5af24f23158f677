"""`backdrop migrate`: brings the three databases to this version. On a cluster a Job runs it."""

from __future__ import annotations

from rich.console import Console

from infra.database_url import LEGACY_DRIVER, with_driver
from infra.errors import BackdropError
from infra.settings import Settings


def migrate(settings: Settings, console: Console) -> None:
    """Makes or upgrades what is given by URL; embedded databases are brought up to date when they are used."""
    if not (settings.catalog_url or settings.dagster_url or settings.mlflow_db_url):
        raise BackdropError(
            "no database is given by URL", "set BACKDROP_CATALOG_URL, BACKDROP_DAGSTER_URL, BACKDROP_MLFLOW_DB_URL"
        )
    if settings.catalog_url:
        from infra.catalog import Catalog

        catalog = Catalog(settings.catalog_url)
        catalog.upgrade()
        catalog.close()
        console.print("catalog  is current")
    if settings.dagster_url:
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            instance.upgrade()
        console.print("dagster  is current")
    if settings.mlflow_db_url:
        from mlflow.db import commands

        # `mlflow db upgrade`, without the password on a command line.
        commands.main(["upgrade", with_driver(settings.mlflow_db_url, LEGACY_DRIVER)], standalone_mode=False)
        console.print("mlflow   is current")
