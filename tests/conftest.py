"""Fixtures of every room: an embedded PostgreSQL, a fresh catalog database, object stores."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.database import Postgres, ensure_postgres, remove_postgres
from infra.object_store import DirectoryStore, ObjectStore

_numbers = itertools.count()
_SHARED = ("finished", "playing", "promotion_server")
"""Fixtures that take long to set up and serve the tests of several files."""


@pytest.hookimpl(tryfirst=True)  # before the plugin reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For two workers: tests that share a set-up go to one of them, and those of the line, the longest, begin."""
    for item in items:
        of_test = getattr(item, "fixturenames", ())
        shared = next((name for name in _SHARED if name in of_test), item.nodeid.split("::")[0])
        item.add_marker(pytest.mark.xdist_group(shared))
    items.sort(key=lambda item: not item.nodeid.startswith("tests/line/"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The embedded server in a state folder of its own; it is gone after the session."""
    state = Path(tempfile.mkdtemp(prefix="backdrop-test-"))
    try:
        yield ensure_postgres(state)
    finally:
        remove_postgres(state)
        shutil.rmtree(state)


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """The libpq URL of an empty database that only this test uses."""
    import psycopg

    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY wal_log".encode())
        yield postgres.url(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def catalog_url(database_url: str) -> str:
    """The URL of a catalog with its tables, and nothing in them."""
    from infra.catalog import Catalog

    catalog = Catalog(database_url)
    catalog.upgrade()
    catalog.close()
    return catalog.url


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A directory store in the test's own folder."""
    return DirectoryStore(tmp_path / "store")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """moto's S3 server on a real socket; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A store in a new bucket of that server, which the environment names."""
    from infra.s3 import S3Store, connect

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"test-{next(_numbers)}"
    connect().create_bucket(Bucket=bucket)
    return S3Store(f"s3://{bucket}/some/prefix")
