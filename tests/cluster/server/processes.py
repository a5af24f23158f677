"""What runs in a container here: a local process, or a function of the test in a thread."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tests.cluster.clock import Clock

KILLED = 128 + signal.SIGKILL
Done = Callable[[int], None]  # told the exit code, once, from some thread


class PodRun(dict[str, Any]):
    """The pod that a function runs as: its object when it started, and what a program would find around itself."""

    def __init__(self, pod: dict[str, Any], env: dict[str, str], log: Path) -> None:
        super().__init__(pod)
        self.env = env
        self.terminating = threading.Event()  # set where a process would get SIGTERM
        self._log = log

    @property
    def name(self) -> str:
        return str(self["metadata"]["name"])

    @property
    def index(self) -> int:
        """The completion index; -1 where the pod has none."""
        return int(self.env.get("JOB_COMPLETION_INDEX", -1))

    def log(self, text: str) -> None:
        """Adds a line to the container's log."""
        with self._log.open("a") as file:
            file.write(text + "\n")


class Program(Protocol):
    """A running container."""

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def settling(self) -> bool:
        """Whether it is so young that a test that waits for quiet should wait for it."""


class Process:
    """A local process in a session of its own: when it ends, what it started ends with it, as in a container."""

    def __init__(self, argv: list[str], env: dict[str, str], directory: Path, log: Path, done: Done) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                argv,
                env=env,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._done = done
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        code = self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._done(code if code >= 0 else 128 - code)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def settling(self) -> bool:
        return False


class Function:
    """A function in a thread. It cannot be killed: after a kill its container has ended, whatever it does."""

    def __init__(self, function: Callable[[PodRun], int | None], run: PodRun, done: Done, clock: Clock) -> None:
        self._function, self._run, self._done, self._clock = function, run, done, clock
        self._lock = threading.Lock()
        self._ended = self._told = False
        self._young_until = float("inf")
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        self._young_until = time.monotonic() + 0.25  # not before: a busy machine may start it late
        try:
            code = int(self._function(self._run) or 0)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            self._run.log(traceback.format_exc())
            code = 1
        self._end(code)

    def _end(self, code: int) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._done(code)
        self._told = True

    def terminate(self) -> None:
        self._run.terminating.set()

    def kill(self) -> None:
        self._run.terminating.set()
        self._end(KILLED)

    def settling(self) -> bool:
        return not self._told and time.monotonic() < self._young_until and not self._clock.asleep(self._thread)


def host_environment() -> dict[str, str]:
    """What an image would bring: a path to this Python, a home, a locale. Nothing else of the test's environment."""
    kept = {k: os.environ[k] for k in ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ") if k in os.environ}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
