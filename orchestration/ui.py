"""`make ui`: Dagster's web server and daemon beside MLflow, in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

from rich.console import Console

from infra.errors import BackdropError
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
            end_stale_runs(instance)
        loaded = Settings.load()
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
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"},
            start_new_session=True,
        )

        def stop(_signal: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        try:
            with console.status("waiting for MLflow"):
                wait_for_mlflow(loaded)
            console.print(f"Dagster  http://127.0.0.1:{port}", highlight=False)
            console.print(f"MLflow   {loaded.mlflow_links}", highlight=False)
            console.print("Ctrl-C ends both.")
            if process.wait():
                raise BackdropError(
                    f"Dagster's web server ended with {process.returncode}",
                    f"is port {port} free? try --port",
                )
        except KeyboardInterrupt:
            console.print("ending")
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
