"""Jobs that start in milliseconds: heavy packages are imported once, and each job is a fork of that process.

A job is a process of its own, and nine of them that each import PyTorch, Composer and Streaming spend 90 s on it.

    launcher ──request, log──► warm interpreter ──fork──► job: sends its pid, waits
       │  writes the pid into the handle                       │
       └────────────────────────"go"──────────────────────────►│  runs `python -m <room> <verb>`

Nothing of the house itself is kept from before the fork, only other people's packages. The warm interpreter ends
with its launcher; jobs do not. Where it cannot serve, the launcher starts a new interpreter instead.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from infra.jobs.process import LAUNCH_VARIABLE, ProcessId
from infra.jobs.warm_server import PLACEHOLDER
from infra.settings import REPOSITORY

#: How long an import may take that a request has to wait for.
PATIENCE_S = 120.0

_log = logging.getLogger(__name__)


class Child(Protocol):
    """A job's process as the launcher that started it sees it."""

    process: ProcessId

    def running(self) -> bool: ...

    def begin(self) -> None: ...

    @property
    def code(self) -> int | None:
        """How it ended (negative: by that signal); None while it runs, and when nobody knows."""


class SpawnedChild:
    """A job in an interpreter of its own."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.process = ProcessId.of(psutil.Process(popen.pid))

    def running(self) -> bool:
        return self._popen.poll() is None

    def begin(self) -> None:
        pass  # it has begun

    @property
    def code(self) -> int | None:
        return self._popen.returncode


class ForkedChild:
    """A job forked from the warm interpreter, which tells over ``line`` how it ended."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.process = ProcessId.of(psutil.Process(pid))
        self.code: int | None = None
        self._line: socket.socket | None = line

    def running(self) -> bool:
        if self._line is not None:
            try:
                said = self._line.recv(1024)
            except BlockingIOError:
                return True
            except OSError:
                said = b""
            self._line.close()
            self._line = None
            self.code = json.loads(said)["code"] if said else None
        # Without its parent's word: as for a job that was adopted.
        return self.code is None and self.process.alive

    def begin(self) -> None:
        """Lets it run: its process has been written down."""
        if self._line is not None:
            with contextlib.suppress(OSError):  # it has ended already, which running() finds out
                self._line.send(b"go")
            self._line.setblocking(False)


@dataclass
class WarmInterpreter:
    """Imports ``modules`` in this order in a process of its own, from `start` on until `close`.

    What it complains about is in ``state``/warm.log.
    """

    state: Path
    modules: Sequence[str]
    _launcher: socket.socket | None = field(default=None, init=False, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        """None before `start`."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begins to import, and returns at once."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, (self.state / "warm.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.jobs.warm_server", str(self.state), str(theirs.fileno()), *self.modules],
                cwd=REPOSITORY,
                env={**os.environ, LAUNCH_VARIABLE: PLACEHOLDER},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._launcher = ours

    def fork(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> ForkedChild | None:
        """A job that waits for `begin`; None where the interpreter does not run or cannot serve."""
        if self._launcher is None:
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "module": module,
            "arguments": [*arguments],
            "environment": {**environment},
            "folder": str(REPOSITORY),
        }
        try:
            with theirs, log.open("wb") as file:
                socket.send_fds(self._launcher, [json.dumps(request).encode()], [theirs.fileno(), file.fileno()])
            ours.settimeout(PATIENCE_S)
            said = ours.recv(1024)
            if not said:
                raise ConnectionError("it ended")
            return ForkedChild(json.loads(said)["pid"], ours)
        except (OSError, psutil.Error, KeyError) as error:  # KeyError: told its end instead of its pid
            _log.warning("The warm interpreter cannot serve (%s); jobs start their own from now on", error)
            ours.close()
            self.close()
            return None

    def close(self) -> None:
        """Ends it; jobs that were forked from it go on."""
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        if self._process is not None:
            self._process.kill()  # it may be in the middle of an import
            self._process.wait()
