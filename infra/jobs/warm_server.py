"""The warm interpreter's own process: imports packages, then forks a job for each request.

    python -m infra.jobs.warm_server <state folder> <descriptor> <module> [<module> …]

``descriptor`` is a socket to the launcher (:mod:`infra.jobs.warm`). When the launcher is gone it reads the end of
that socket and exits; jobs that run go on without it, as a job must.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import runpy
import select
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from infra.jobs.process import LAUNCH_VARIABLE
from infra.sources import ROOMS

#: As long as every launch id, so that one can be written over it.
PLACEHOLDER = "-" * 24
REQUEST_BYTES = 1 << 20


def serve(launcher: socket.socket, modules: list[str]) -> tuple[Mapping[str, Any], socket.socket] | None:
    """Answers requests until the launcher is gone (None). In a forked job: returns its request and its line."""
    waiting = list(modules)
    children: dict[int, tuple[int, socket.socket]] = {}  # pidfd → (pid, line)
    while True:
        # Between two imports somebody may be waiting already; a request is not kept until all are done.
        watched: list[socket.socket | int] = [launcher, *children]
        ready, _, _ = select.select(watched, [], [], 0 if waiting else None)
        for pidfd in [item for item in ready if isinstance(item, int)]:
            _report(pidfd, *children.pop(pidfd))
        if launcher in ready:
            data, descriptors, _, _ = socket.recv_fds(launcher, REQUEST_BYTES, 2)
            if not data:
                return None
            line, log = socket.socket(fileno=descriptors[0]), descriptors[1]
            gc.freeze()  # a collection in the job would touch, and so copy, every page
            pid = os.fork()
            if pid == 0:
                launcher.close()
                for pidfd, (_, other) in children.items():
                    os.close(pidfd)
                    other.close()
                _become_a_job(log)
                return json.loads(data), line
            os.close(log)
            children[os.pidfd_open(pid)] = (pid, line)
        elif waiting:
            with contextlib.suppress(Exception):  # the job that needs it will say what is wrong with it
                importlib.import_module(waiting.pop(0))


def _report(pidfd: int, pid: int, line: socket.socket) -> None:
    """Tells the launcher how a job ended."""
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    with contextlib.suppress(OSError):  # nobody listens any more
        line.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
    line.close()


def _become_a_job(log: int) -> None:
    os.setsid()  # a Ctrl-C in the terminal is for the orchestrator to pass on
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def run(request: Mapping[str, Any], line: socket.socket) -> NoReturn:
    """Runs ``python -m <module> <arguments>`` in this process, to its end."""
    _show_launch(request["environment"][LAUNCH_VARIABLE])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    logging.root.handlers.clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
        del sys.modules[name]  # the job runs today's code, not what it was when this process started
    line.send(json.dumps({"pid": os.getpid()}).encode())
    if not line.recv(16):
        os._exit(0)  # the launcher died before it had written down this process
    line.close()
    sys.argv = [request["module"], *request["arguments"]]
    code = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code)


def _end(code: int) -> NoReturn:
    """Ends as multiprocessing ends a forked child: what Python registered runs, what C++ libraries did does not.

    Some of those wait at exit for threads that this process, as a fork, never had.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _show_launch(launch: str) -> None:
    """Makes /proc/<pid>/environ tell the launch, by which a job and all it forks are found.

    That file shows the memory that the kernel laid the environment down in (proc(5), env_start in
    /proc/<pid>/stat); what Python sets later does not appear there, so it is written over in place.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    before, after = (f"{LAUNCH_VARIABLE}={value}".encode() for value in (PLACEHOLDER, launch))
    at = ctypes.string_at(start, end - start).index(before)
    if len(before) != len(after):
        raise ValueError(f"the launch id {launch} does not have {len(PLACEHOLDER)} characters")
    ctypes.memmove(start + at, after, len(after))


if __name__ == "__main__":
    job = serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
    if job is not None:
        run(*job)
