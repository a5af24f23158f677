"""Processes by identity: a pid alone may belong to somebody else by tomorrow."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import psutil
from pydantic import BaseModel, ConfigDict

# Set in a job's environment, and so in everything it starts: how its processes are found when their parents
# are gone.
LAUNCH_VARIABLE = "BACKDROP_JOB_LAUNCH"

# Set where the job's folder goes when the job ends, as in a pod: its checkpoints have to be kept in the store.
EPHEMERAL_VARIABLE = "BACKDROP_JOB_EPHEMERAL"
# Set where many processes share one spec: how many they are, and which one this is.
SLICES_VARIABLE, SLICE_VARIABLE = "BACKDROP_JOB_SLICES", "BACKDROP_JOB_SLICE"

# The start time that the kernel tells moves with corrections of the clock; a pid does not come round in this
# time.
_CLOCK_SLACK_SECONDS = 2.0


class ProcessId(BaseModel):
    """A pid and when it started (seconds since 1970)."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        return cls(pid=process.pid, started=process.create_time())

    @classmethod
    def of_this_process(cls) -> ProcessId:
        return cls.of(psutil.Process(os.getpid()))

    def find(self) -> psutil.Process | None:
        """The process while it lives; a zombie has ended, and another process with its pid is not it."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _CLOCK_SLACK_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None

    @property
    def alive(self) -> bool:
        return self.find() is not None


def processes_of(launch: str) -> list[psutil.Process]:
    """Every living process of a launch, oldest first: the job and whatever it started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # This process may itself have been started by a job of that name; it must never end itself.
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(LAUNCH_VARIABLE) == launch:
                found.append((process.create_time(), process.pid, process))
    return [process for _, _, process in sorted(found, key=lambda item: item[:2])]


def end_processes(
    main: ProcessId | None, launch: str, grace_s: float, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Ends a launch: SIGTERM to the job itself, which saves and ends its workers, and SIGKILL to all after
    ``grace_s``.

    Its workers get no SIGTERM of their own: a job whose data loaders vanish while it saves fails instead of
    saving. ``meanwhile`` is called while waiting, for example to read what the job still says. An interrupt
    of the wait (a second Ctrl-C) ends the grace at once.
    """
    process = main.find() if main is not None else None
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    try:
        deadline = time.monotonic() + grace_s
        while main is not None and main.alive and time.monotonic() < deadline:
            meanwhile()
            time.sleep(0.05)
    finally:
        kill_all_of(launch)


def kill_all_of(launch: str, patience_s: float = 10.0) -> list[int]:
    """SIGKILL to every process of a launch; returns their pids once they and their locks are gone."""
    found = processes_of(launch)
    ids = []
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            ids.append(ProcessId.of(process))
            process.kill()
    deadline = time.monotonic() + patience_s
    while any(process.alive for process in ids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [process.pid for process in ids]
