"""The embedded MLflow server of a state folder: started in the background, found again, stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import ServiceError
from infra.files import locked, sha256_bytes, write_atomic
from infra.jobs.process import ProcessId
from infra.processes import free_port, is_free, last_line, tail
from infra.settings import REPOSITORY

MODULE = "infra._compat.mlflow_server"
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class MlflowServer(BaseModel):
    """What is written down about a server: who it is, where it listens, and the hash of its backend's URL."""

    model_config = ConfigDict(frozen=True)

    process: ProcessId | None
    port: int
    database: str

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Tracked(Protocol):
    """Settings or endpoints: where MLflow is, and the state folder that an embedded one would belong to."""

    @property
    def mlflow_uri(self) -> str | None: ...

    @property
    def state(self) -> Path: ...


def log_path(state: Path) -> Path:
    """Where the embedded server writes its log."""
    return state / "mlflow.log"


def ensure_mlflow(state: Path, database: str) -> str:
    """Starts the server without waiting for it, or finds it running on this database; returns its URI.

    The port stays the same from start to start as long as nobody else takes it, so that links stay valid.
    """
    state.mkdir(parents=True, exist_ok=True)
    with locked(state / "mlflow.lock"):
        digest = sha256_bytes(database.encode())
        known = _recorded(state)
        if known and known.process and known.process.alive and known.database == digest:
            return known.uri
        _end(state)
        port = known.port if known and is_free(known.port) else free_port()
        # Before the start: an address that was given out stays, also when this process dies in between.
        _record(state, MlflowServer(process=None, port=port, database=digest))
        process = _start(state, port, database)
        server = MlflowServer(process=process, port=port, database=digest)
        _record(state, server)
        return server.uri


def stop_mlflow(state: Path) -> None:
    """Ends the state folder's server; nothing happens when there is none."""
    if state.is_dir():
        with locked(state / "mlflow.lock"):
            _end(state)


def wait_for_mlflow(at: Tracked, timeout: float = 120) -> None:
    """Blocks until MLflow answers; raises a :class:`ServiceError` that names the log when it does not."""
    uri = str(at.mlflow_uri).rstrip("/")
    server = _recorded(at.state)
    embedded = server is not None and server.uri == uri
    where = f"read {log_path(at.state)}" if embedded else "check BACKDROP_MLFLOW_URI and that server's log"
    deadline = time.monotonic() + timeout
    while not _healthy(uri):
        if embedded and server and not (server.process and server.process.alive):
            reason = last_line(tail(log_path(at.state)).split("→")[0])
            raise ServiceError(f"the MLflow server ended before it answered: {reason}", where)
        if time.monotonic() > deadline:
            raise ServiceError(f"MLflow did not answer on {uri} within {timeout:.0f} s", where)
        time.sleep(0.1)


def _healthy(uri: str) -> bool:
    # No proxy: a proxy in the environment must not be asked for 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _start(state: Path, port: int, database: str) -> ProcessId:
    with log_path(state).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(state), str(port)],
            cwd=REPOSITORY,  # from where `-m` finds it
            env=_environment(os.environ, database),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # it outlives us, and a Ctrl-C on our terminal is not for it
        )
    return ProcessId.of(psutil.Process(process.pid))


def _environment(ours: Mapping[str, str], database: str) -> dict[str, str]:
    """Ours without what would reconfigure a MLflow server, such as a tracking URI set for its clients."""
    kept = {name: value for name, value in ours.items() if not name.lstrip("_").startswith("MLFLOW_")}
    return {**kept, **QUIET, "BACKDROP_MLFLOW_DB_URL": database}


def _end(state: Path) -> None:
    """Ends every server of this state folder, also one whose starter died before it wrote it down."""
    servers = list(_serving(state))
    for process in servers:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(servers, timeout=10)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _serving(state: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if MODULE in command and str(state) in command:
            yield process


def _record_path(state: Path) -> Path:
    return state / "mlflow.json"


def _recorded(state: Path) -> MlflowServer | None:
    try:
        return MlflowServer.model_validate_json(_record_path(state).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def _record(state: Path, server: MlflowServer) -> None:
    write_atomic(_record_path(state), server.model_dump_json())
