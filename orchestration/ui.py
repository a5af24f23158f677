"""`make ui`: Dagster's web server and daemon beside MLflow and the studio, in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import FrameType

from rich.console import Console

from infra.errors import BackdropError
from infra.processes import free_port, is_free
from infra.settings import REPOSITORY, Settings


def serve(settings: Settings, console: Console, port: int) -> None:
    """Blocks. Servers listen on 127.0.0.1 only: neither has a login of its own."""
    from infra.services import wait_for_mlflow
    from orchestration.remembered import as_last_run
    from orchestration.services import services
    from orchestration.stale import end_stale_runs

    with services(settings, console) as environment:
        os.environ.update({**environment, **as_last_run(settings)})
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            end_stale_runs(instance, settings)
        loaded = Settings.load()
        at = port + 1 if is_free(port + 1) else free_port()
        # Where alerts lead, and whose counters they read.
        pages = {"BACKDROP_DAGSTER_PAGE": f"http://127.0.0.1:{port}", "BACKDROP_STUDIO_URL": f"http://127.0.0.1:{at}"}
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "dagster",
                "dev",
                "-m",
                "orchestration.definitions",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "--log-level",
                "warning",
            ],
            cwd=settings.state,  # where its dagster.yaml lies
            env={**pages, **os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"},
            start_new_session=True,
        )

        signal.signal(signal.SIGTERM, _interrupt)
        ending = ExitStack()  # each is ended, also when a second Ctrl-C comes while the first of them ends
        ending.callback(_end, process)
        try:
            with console.status("waiting for MLflow"):
                wait_for_mlflow(loaded)
            log = loaded.state / "studio.log"
            studio = start_studio("127.0.0.1", at, log)
            ending.callback(_end, studio)
            console.print(f"Dagster  http://127.0.0.1:{port}", highlight=False)
            console.print(f"Studio   http://127.0.0.1:{at}", highlight=False)
            console.print(f"MLflow   {loaded.mlflow_links}", highlight=False)
            console.print("On this machine only: none of them asks who you are. Ctrl-C ends them.")
            _watch(process, studio, console, log)
            if process.returncode:
                raise BackdropError(
                    f"Dagster's web server ended with {process.returncode}",
                    f"is port {port} free? try --port",
                )
        except KeyboardInterrupt:
            console.print("ending")
        finally:
            ending.close()


def _watch(dagster: subprocess.Popen[bytes], studio: subprocess.Popen[bytes], console: Console, log: Path) -> None:
    """Until Dagster's server ends. That the studio ended is said, once, and ends nothing else."""
    said = False
    while dagster.poll() is None:
        if studio.poll() is not None and not said:
            console.print(f"[red]The studio ended with {studio.returncode}[/red]; {log} says why.", soft_wrap=True)
            said = True
        time.sleep(0.5)


def serve_studio(settings: Settings, console: Console, host: str, port: int) -> None:
    """The studio alone. Blocks until Ctrl-C. Raises BackdropError where it ends by itself."""
    from infra.services import wait_for_mlflow
    from orchestration.remembered import as_last_run
    from orchestration.services import services

    with services(settings, console) as environment:
        os.environ.update({**environment, **as_last_run(settings)})
        loaded = Settings.load()
        with console.status("waiting for MLflow"):
            wait_for_mlflow(loaded)
        process = start_studio(host, port)
        signal.signal(signal.SIGTERM, _interrupt)
        console.print(f"Studio   http://{host}:{port}", highlight=False)
        if host in ("127.0.0.1", "localhost", "::1"):
            console.print("On this machine only; it has no login. Ctrl-C ends it.")
        else:
            console.print("[yellow]Everybody who reaches this address can use it: it has no login.[/yellow]")
        try:
            if process.wait():
                raise BackdropError(f"the studio ended with {process.returncode}", f"is port {port} free? try --port")
        except KeyboardInterrupt:
            console.print("ending")
        finally:
            _end(process)


def start_studio(host: str, port: int, log: Path | None = None) -> subprocess.Popen[bytes]:
    """A process of its own: torch and the engines stay out of this one. It writes to the terminal, or to `log`."""
    command = [sys.executable, "-m", "deploy.studio", "--host", host, "--port", str(port)]
    with log.open("ab") if log is not None else nullcontext() as file:
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,  # from where `-m` finds it
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
