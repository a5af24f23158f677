"""Fixtures of every room: an embedded PostgreSQL, a fresh catalog database, object stores."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.database import Postgres, ensure_postgres, remove_postgres
from infra.object_store import DirectoryStore, ObjectStore

_numbers = itertools.count()
_TOGETHER = ("tests/line/", "tests/deploy/studio/", "tests/deploy/test_promotion")
"""Files whose tests share what takes long to set up, so that one worker has all of them; of others each is one."""
_ALONE = ("tests/line/test_tutorial.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The line's tests, the longest, begin."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/line/"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals out tests by what they share (pytest-xdist 3.8's own groups have no effect in pytest 9.2)."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class Together(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return next((most for most in (*_ALONE, *_TOGETHER) if file.startswith(most)), file)

    return Together(config, log)


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
