"""Database URLs: the driver each client needs, whether a server answers, and messages without passwords."""

from __future__ import annotations

from infra.errors import BackdropError, ServiceError

CATALOG_DRIVER = "postgresql+psycopg"
# dagster-postgres and MLflow speak psycopg2; a bare postgresql:// would mean psycopg 3 since SQLAlchemy 2.1.
LEGACY_DRIVER = "postgresql+psycopg2"


def with_driver(url: str, driver: str) -> str:
    """`url` with SQLAlchemy's name for a PostgreSQL driver; another database's URL is returned as it is."""
    return f"{driver}://{url.split('://', 1)[1]}" if is_postgresql(url) else url


def is_postgresql(url: str) -> bool:
    """Whether the URL names a PostgreSQL database, with any driver."""
    return "://" in url and url.split("://", 1)[0].split("+")[0] in ("postgresql", "postgres")


def place_of(url: str) -> str:
    """ "database 'catalog' on db.example:5432": what a message may say about a URL."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    return f"database '{parsed.database}' on {parsed.host or 'a local socket'}:{parsed.port or 5432}"


def check_database(url: str, variable: str) -> None:
    """Connects once; raises a :class:`ServiceError` that names host, port, database and `variable`."""
    import psycopg
    from sqlalchemy.exc import ArgumentError

    try:
        place = place_of(url)
    except (ArgumentError, ValueError) as error:
        raise BackdropError(
            f"{variable} is not a database URL", "write postgresql://user:password@host:port/database"
        ) from error
    if not is_postgresql(url):
        return  # MLflow may keep its backend elsewhere; its own server then says what is wrong with it
    try:
        psycopg.connect(with_driver(url, "postgresql"), connect_timeout=5).close()
    except psycopg.Error as error:
        raise database_away(url, error, place, variable) from None


def database_away(url: str, error: Exception, place: str | None = None, variable: str = "") -> ServiceError:
    """The one message for a database that does not answer or refuses us; never with the password."""
    from sqlalchemy.engine import make_url

    reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    password = make_url(url).password
    if password:
        reason = reason.replace(str(password), "***")
    return ServiceError(
        f"the {place or place_of(url)} cannot be used: {reason}",
        f"start it, or correct {variable or 'its URL'}; unset the URL to use the embedded server",
    )
