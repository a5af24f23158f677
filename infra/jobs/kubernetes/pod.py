"""What runs in a pod: `python -m infra.jobs.kubernetes.pod <room> <verb> --spec <uri>`.

One node of a computation starts a process for each of its GPUs, as torchrun and `composer -n` do, without what they
add: nothing is restarted here (all ranks restart together, in a new Job), and the code that a rank ended with is the
pod's, by which the cluster tells wrong data from a crash. A slice is one process, told which part is its own.

What it all prints goes to the pod's log and, every minute and at the end, to the object store.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from infra.errors import BackdropError
from infra.jobs.folder import JobFolder
from infra.jobs.kubernetes import variables
from infra.jobs.messages import incarnation
from infra.jobs.process import LAUNCH_VARIABLE, SLICE_VARIABLE, SLICES_VARIABLE
from infra.jobs.ranks import NOTICE_PATIENCE_S
from infra.object_store import open_store

UPLOAD_EVERY_S = 60.0
_LARGE = 4 << 20

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Starts the processes of this pod and ends with their code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m infra.jobs.kubernetes.pod", description=__doc__)
    parser.add_argument("room")
    parser.add_argument("verb")
    parser.add_argument("--spec", required=True, metavar="URI")
    arguments = parser.parse_args(argv)
    index = int(os.environ.get(variables.INDEX, "0"))
    folder = JobFolder(Path(os.environ["BACKDROP_STATE"]) / "jobs" / incarnation())
    folder.path.mkdir(parents=True)
    command = [sys.executable, "-m", arguments.room, arguments.verb, "--spec", arguments.spec]
    command += ["--folder", str(folder.path)]
    sliced = SLICES_VARIABLE in os.environ
    places = [{SLICE_VARIABLE: str(index)}] if sliced else ranks_of(index, os.environ)
    with _Log(folder, index) as printed:
        codes = _run(command, places, printed.descriptor)
        exit = folder.read_exit(os.environ.get(LAUNCH_VARIABLE, ""))
        if exit is not None:  # the first process's own word: libraries may crash while Python shuts down
            codes[0] = exit.code
            if exit.code and printed.uri:
                open_store(printed.uri).put(last_words_key(index), exit.model_dump_json().encode())
        return code_of(codes)


def last_words_key(index: int) -> str:
    """Below the logs of a launch: the `infra.jobs.folder.Exit` of this index, where it failed."""
    return f"{index:05d}/exit.json"


def ranks_of(node: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """The variables that tell each process of this node who it is; nothing to tell where there is one in all."""
    nodes, local = int(environment.get(variables.NODES, "1")), int(environment.get(variables.PROCESSES, "1"))
    if nodes == 1:
        return [{}]  # a job on one node forks its ranks itself (infra.jobs.ranks)
    shared = {
        "WORLD_SIZE": nodes * local,
        "LOCAL_WORLD_SIZE": local,
        "NODE_RANK": node,
        "MASTER_ADDR": environment[variables.MASTER],
        "MASTER_PORT": environment.get("MASTER_PORT", str(variables.MASTER_PORT)),
    }
    return [
        {name: str(value) for name, value in {**shared, "RANK": node * local + k, "LOCAL_RANK": k}.items()}
        for k in range(local)
    ]


def _run(command: list[str], places: list[dict[str, str]], output: int) -> list[int]:
    """Runs all of them to their end, and returns their codes. A SIGTERM is passed on, so that they save. The first bad
    end ends the others: soon by SIGKILL, for who waits in a collective does not hear a SIGTERM.
    """
    processes = [
        subprocess.Popen(command, env={**os.environ, **place}, stdout=output, stderr=output) for place in places
    ]
    stopping = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.set()
        for process in processes:
            process.terminate()

    signal.signal(signal.SIGTERM, stop)
    codes: dict[int, int] = {}
    deadline = float("inf")
    while len(codes) < len(processes):
        for place, process in enumerate(processes):
            if place not in codes and (code := process.poll()) is not None:
                codes[place] = code
                if code and not stopping.is_set() and deadline == float("inf"):
                    deadline = time.monotonic() + NOTICE_PATIENCE_S
                    for other in processes:
                        other.terminate()
        if time.monotonic() > deadline and not stopping.is_set():
            for other in processes:
                other.kill()
        time.sleep(0.1)
    return [codes[place] for place in range(len(processes))]


def code_of(codes: list[int]) -> int:
    """The pod's exit code: wrong configuration or data before a crash before a preemption, which ends the others."""
    bad = [128 - code if code < 0 else code for code in codes if code]
    if not bad:
        return 0
    if BackdropError.exit_code in bad:
        return BackdropError.exit_code
    return next((code for code in bad if code != variables.PREEMPTED), variables.PREEMPTED)


class _Log:
    """What the processes print: through a pipe into the pod's own log, a file, and from there the object store."""

    def __init__(self, folder: JobFolder, index: int) -> None:
        self._path = folder.log
        self.uri = os.environ.get(variables.LOG, "")
        self._name = f"{index:05d}/{incarnation()}.txt"
        self._reading, self.descriptor = os.pipe()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._copy, self._upload_often)]

    def __enter__(self) -> _Log:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        self._threads[0].join(timeout=10)
        self._done.set()
        self._threads[1].join()

    def _copy(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while some := os.read(self._reading, 1 << 16):
                with contextlib.suppress(OSError):  # a full disk: who prints must not be held up
                    file.write(some)
                with contextlib.suppress(OSError):
                    sys.stdout.buffer.write(some)
                    sys.stdout.buffer.flush()

    def _upload_often(self) -> None:
        uploaded = -1
        while True:
            ended = self._done.wait(UPLOAD_EVERY_S * (1 + max(0, uploaded) // _LARGE))  # it is written whole each time
            size = self._path.stat().st_size if self._path.exists() else 0
            if self.uri and size != uploaded:
                try:
                    open_store(self.uri).put_file(self._name, self._path)
                    uploaded = size
                except Exception:  # it is for people: that it cannot be kept does not make a job fail
                    log.warning("the log could not be written to %s", self.uri, exc_info=True)
            if ended:
                return


if __name__ == "__main__":
    sys.exit(main())
