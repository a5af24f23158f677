"""`backdrop` as a process on a state folder of its own, and jobs in that folder which are written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.jobs.folder import Exit, job_folder
from infra.jobs.handle import Handle, write_handle
from infra.jobs.process import ProcessId
from infra.settings import REPOSITORY


def foreign_to(name: str) -> bool:
    """Whether a variable of ours would reach into a state folder that is another's."""
    return name.startswith(("BACKDROP_", "DAGSTER_"))


@dataclass(frozen=True)
class Shop:
    """A state folder, and the commands on it."""

    state: Path

    def environment(self, **extra: str) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not foreign_to(name)}
        return {**mine, "BACKDROP_STATE": str(self.state), "COLUMNS": "200", **extra}

    def command(self, *arguments: str | bytes) -> list[Any]:
        return [sys.executable, "-m", "orchestration.cli", *arguments]

    def run(self, *arguments: str | bytes, shell: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """`shell`: what follows the command in a shell, such as a redirection."""
        command = self.command(*arguments)
        if shell:
            command = ["bash", "-o", "pipefail", "-c", f'"$@" {shell}', "bash", *command]
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.environment(**extra), capture_output=True, text=True, timeout=120
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Not waited for; what it prints is piped."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=REPOSITORY,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, *arguments: str, code: int = 0, **extra: str) -> Any:
        """The document of a command."""
        done = self.run(*arguments, "--json", **extra)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    def job(self, key: str, code: int | None, process: ProcessId | None = None, **given: Any) -> None:
        """One that ended with `code`; None: it was killed."""
        folder = job_folder(self.state, key)
        folder.path.mkdir(parents=True)
        ended = ProcessId(pid=2**22 - 1, started=1.0)
        write_handle(folder, handle_of(key, process=process or ended, **given))
        if code is not None:
            folder.write_exit(Exit(launch=f"launch-of-{key}", code=code, what="it was wrong" if code else ""))


def handle_of(key: str, created_at: str = "2026-01-01T00:00:00+00:00", **given: Any) -> Handle:
    here = ProcessId.of_this_process()
    return Handle(key=key, room="training", verb="autoencoder", identity="i", launch=f"launch-of-{key}", attempt=2,
                  store="file:///x", prefix="p", created_at=created_at, run_id="r", watcher=here, **given)  # fmt: skip
