"""The catalog's connection: opened on first use, checked before use, with errors that name the database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property

import psycopg
from sqlalchemy import Connection, Engine, create_engine, select, update
from sqlalchemy.exc import ArgumentError, OperationalError

from infra.catalog import migrate
from infra.catalog.models import DeliveryRecord
from infra.database_url import CATALOG_DRIVER, database_away, is_postgresql, with_driver
from infra.errors import BackdropError


class CatalogDatabase:
    """The catalog database behind a PostgreSQL URL. Nothing connects before the first call."""

    def __init__(self, url: str) -> None:
        if not is_postgresql(url):
            raise BackdropError(
                "the catalog's URL does not name a PostgreSQL database",
                "set BACKDROP_CATALOG_URL to postgresql://user:password@host:port/database",
            )
        self.url = with_driver(url, CATALOG_DRIVER)

    @cached_property
    def engine(self) -> Engine:
        """Connections are checked before use: the server may have been restarted meanwhile."""
        try:
            return create_engine(self.url, pool_pre_ping=True, pool_size=2, connect_args={"connect_timeout": 10})
        except ArgumentError as error:
            raise BackdropError(
                "the catalog's URL is malformed", "write postgresql://user:password@host:port/database"
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except (OperationalError, psycopg.OperationalError) as error:
            cause = getattr(error, "orig", None) or error
            raise database_away(self.url, cause, variable="BACKDROP_CATALOG_URL") from None

    def upgrade(self) -> None:
        """Makes or migrates the tables; quick when they are current, safe when many processes do it at once."""
        with self._transaction() as connection:
            if not migrate.is_current(connection):
                migrate.upgrade(connection)

    def close(self) -> None:
        """Closes the pooled connections."""
        self.engine.dispose()


def lock_delivery(connection: Connection, name: str) -> None:
    """Lets one transaction at a time change a delivery; raises :class:`BackdropError` when there is none."""
    query = select(DeliveryRecord.name).where(DeliveryRecord.name == name).with_for_update()
    if connection.execute(query).first() is None:
        raise BackdropError(f"delivery '{name}' is not in the catalog", "open it with Catalog.add_delivery")


def set_state(connection: Connection, name: str, state: str) -> None:
    """Moves a delivery on."""
    connection.execute(update(DeliveryRecord).where(DeliveryRecord.name == name).values(state=state))
