"""The embedded PostgreSQL against kill -9, half-done work, many callers and closed folders."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from infra import database
from infra.database import Postgres, ensure_postgres, remove_postgres, remove_state, stop_postgres
from infra.database_url import CATALOG_DRIVER, LEGACY_DRIVER, check_database, with_driver
from infra.errors import BackdropError, ServiceError
from infra.settings import REPOSITORY, Settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """A state folder in a place that everybody can reach; one for all tests, for the set-up takes its time."""
    with tempfile.TemporaryDirectory(prefix="backdrop-test-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        state = Path(folder) / "deep" / "state"
        yield state
        remove_postgres(state)


@pytest.fixture
def closed_state() -> Iterator[Path]:
    """A state folder below one that only we may enter."""
    with tempfile.TemporaryDirectory(prefix="backdrop-test-") as folder:
        os.chmod(folder, 0o700)
        state = Path(folder) / "state"
        yield state
        if state.exists():
            remove_postgres(state)


def lives(process: psutil.Process) -> bool:
    """A process that has ended may wait as a zombie until its adoptive parent looks after it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def modes_of_parents(path: Path) -> dict[str, int]:
    return {str(parent): parent.stat().st_mode for parent in path.parents}


def query(server: Postgres, statement: str, name: str = "catalog") -> object:
    with psycopg.connect(server.url(name)) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None


def test_it_starts_stops_and_keeps_data_and_port(state: Path) -> None:
    server = ensure_postgres(state)
    names = query(server, "SELECT array_agg(datname) FROM pg_database")
    assert {"dagster", "mlflow", "catalog"} <= set(names)  # type: ignore[call-overload]
    with psycopg.connect(server.url("catalog")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    began = time.monotonic()
    assert ensure_postgres(state) == server
    assert time.monotonic() - began < 0.2
    stop_postgres(state)
    stop_postgres(state)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url("catalog"))
    assert ensure_postgres(state) == server
    assert query(server, "SELECT n FROM kept") == 7


def test_no_parent_changes_its_mode(state: Path, closed_state: Path) -> None:
    for folder in (state, closed_state):
        stop_postgres(folder)
        folder.mkdir(parents=True, exist_ok=True)
        before = modes_of_parents(folder / "x")
        server = ensure_postgres(folder)
        assert modes_of_parents(folder / "x") == before
        assert (server.home / "data").stat().st_mode & 0o777 == 0o700
        assert (folder / "postgres.json").stat().st_mode & 0o777 == 0o600
    process = database._postmaster(server.data)
    assert process is not None
    if os.geteuid() == 0:  # then somebody else runs it, where that user can reach
        assert process.uids().effective != 0
        assert not server.home.is_relative_to(closed_state)
    remove_state(Settings(state=closed_state))
    assert not closed_state.exists()
    assert not server.home.exists()
    assert not lives(process)
    remove_state(Settings(state=closed_state))


def test_it_needs_the_password_and_listens_on_this_machine_only(state: Path) -> None:
    server = ensure_postgres(state)
    wrong = Postgres(server.home, server.port, "guessed")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong.url("catalog"))
    assert query(server, "SHOW listen_addresses") == "127.0.0.1"
    assert query(server, "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == 1


def test_it_comes_back_after_kill_9(state: Path) -> None:
    server = ensure_postgres(state)
    with psycopg.connect(server.url("catalog")) as connection:
        connection.execute("CREATE TABLE survived AS SELECT 7 AS n")
    process = database._postmaster(server.data)
    assert process is not None
    process.kill()
    process.wait(10)
    assert (server.data / "postmaster.pid").exists()
    assert ensure_postgres(state) == server
    assert query(server, "SELECT n FROM survived") == 7


def test_a_stale_pid_that_somebody_else_has_now_is_no_obstacle(state: Path) -> None:
    server = ensure_postgres(state)
    stop_postgres(state)
    # This very process is alive under that pid, and is no PostgreSQL.
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data}\n0\n{server.port}\n\n*\n")
    assert ensure_postgres(state) == server


def test_a_half_made_data_folder_is_made_again(state: Path) -> None:
    server = ensure_postgres(state)
    stop_postgres(state)
    # As kill -9 in the middle of initdb leaves it: the folder aside, and none under the real name.
    (server.data).rename(server.home / "initialising-dead")
    again = ensure_postgres(state)
    assert query(again, "SELECT 1") == 1
    assert not list(again.home.glob("initialising-*"))


def test_a_lost_record_starts_over(state: Path) -> None:
    first = ensure_postgres(state)
    (state / "postgres.json").unlink()
    second = ensure_postgres(state)
    assert second.password != first.password
    assert query(second, "SELECT 1") == 1


def test_a_taken_port_is_replaced(state: Path) -> None:
    import socket

    server = ensure_postgres(state)
    stop_postgres(state)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the server's last connections may linger
        other.bind(("127.0.0.1", server.port))
        other.listen()
        moved = ensure_postgres(state)
        assert moved.port != server.port
        assert query(moved, "SELECT 1") == 1


def test_many_callers_get_one_server(state: Path) -> None:
    stop_postgres(state)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: ensure_postgres(state), range(4)))) == 1


def test_it_outlives_the_process_that_started_it(state: Path) -> None:
    stop_postgres(state)
    program = f"from infra.database import ensure_postgres as e; from pathlib import Path; e(Path({str(state)!r}));"
    program += "import os, signal; os.killpg(0, signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, start_new_session=True, check=False)
    server = database._recorded(state)
    assert server is not None
    process = database._postmaster(server.data)
    assert process is not None
    assert process.status() != psutil.STATUS_ZOMBIE
    assert query(server, "SELECT 1") == 1


def test_a_state_folder_that_holds_more_is_not_deleted() -> None:
    with pytest.raises(BackdropError, match="holds more than the line's state"):
        remove_state(Settings(state=REPOSITORY))


def test_each_client_gets_its_driver() -> None:
    assert with_driver("postgres://u:p@h/d", LEGACY_DRIVER) == "postgresql+psycopg2://u:p@h/d"
    assert with_driver("postgresql+psycopg2://h/d", CATALOG_DRIVER) == "postgresql+psycopg://h/d"
    assert with_driver("sqlite:///x", LEGACY_DRIVER) == "sqlite:///x"


def test_a_database_that_is_away_is_named_without_its_password(postgres: Postgres) -> None:
    with pytest.raises(ServiceError) as away:
        check_database("postgresql+psycopg2://me:hunter2@127.0.0.1:9/things", "BACKDROP_DAGSTER_URL")
    assert "database 'things' on 127.0.0.1:9 cannot be used" in str(away.value)
    assert "BACKDROP_DAGSTER_URL" in str(away.value)
    assert "hunter2" not in str(away.value)
    with pytest.raises(ServiceError, match='database "none" does not exist'):
        check_database(postgres.url("none"), "BACKDROP_CATALOG_URL")
    with pytest.raises(BackdropError, match="BACKDROP_CATALOG_URL is not a database URL"):
        check_database("hunter2", "BACKDROP_CATALOG_URL")
    check_database(postgres.url("catalog", CATALOG_DRIVER), "BACKDROP_CATALOG_URL")


def test_dagster_stores_and_watches_events_in_it(postgres: Postgres) -> None:
    """dagster-postgres on SQLAlchemy 2.1 needs psycopg2: this is its whole storage with an event watch."""
    from dagster._core.events import EngineEventData
    from dagster._core.test_utils import instance_for_test
    from dagster_postgres.event_log import PostgresEventLogStorage

    url = postgres.url("dagster", LEGACY_DRIVER)
    with instance_for_test(overrides={"storage": {"postgres": {"postgres_url": url}}}) as instance:
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        run = instance.create_run_for_job(_empty_job())
        seen: list[object] = []
        instance.watch_event_logs(run.run_id, None, lambda event, _cursor: seen.append(event))
        instance.report_engine_event("hello", run, EngineEventData())
        deadline = time.monotonic() + 20
        while not seen and time.monotonic() < deadline:
            time.sleep(0.05)
        assert seen
        assert len(instance.all_logs(run.run_id)) == 1


def _empty_job():  # type: ignore[no-untyped-def]
    import dagster as dg

    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def empty() -> None:
        nothing()

    return empty
