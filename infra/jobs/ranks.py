"""The ranks of a job that computes in several processes at once.

Rank 0 is the job: it holds the folder's lock, speaks to the launcher and writes to the store. The others run the same
verb on the same spec beside it; what they write stays with them. They are forked here, or started from outside:

    python -m training pretrain --spec …                                  as many as the spec says, on this machine
    torchrun --nproc-per-node 8 --nnodes 2 … -m training pretrain --spec …
    composer -n 8 -m training pretrain --spec …

Who they are stands in the variables that all three use (`VARIABLES`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn

from infra.errors import BackdropError, ServiceError
from infra.processes import free_port

log = logging.getLogger(__name__)

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")

END_PATIENCE_S = 5.0
"""How long a failing rank 0 waits to learn that another rank's end was the reason."""
EXPLAINED_PATIENCE_S = 0.5
"""The same, where its own error says what was wrong: a killed rank has ended before it is missed."""
NOTICE_PATIENCE_S = 15.0
"""How long rank 0 may go on after another one's bad end. Gloo notices at once."""


@dataclass(frozen=True)
class Place:
    """Which process this is: `rank` of `ranks` over all nodes, `local_rank` of `local_ranks` on node `node`."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    node: int = 0


def place(environment: Mapping[str, str] | None = None) -> Place:
    """This process's place as the environment tells it; alone where it tells nothing."""
    given = os.environ if environment is None else environment
    defaults = ("0", "1", "0", given.get("WORLD_SIZE", "1"), given.get("GROUP_RANK", "0"))
    return Place(*(int(given.get(name, default)) for name, default in zip(VARIABLES, defaults, strict=True)))


def complete(environment: MutableMapping[str, str]) -> None:
    """Adds what Composer reads and the starter left out: torchrun calls the node's rank GROUP_RANK."""
    here = place(environment)
    values = (here.rank, here.ranks, here.local_rank, here.local_ranks, here.node)
    for name, value in zip(VARIABLES, values, strict=True):
        environment.setdefault(name, str(value))


def _end(error: BackdropError) -> NoReturn:
    print(error, file=sys.stderr, flush=True)
    os._exit(error.exit_code)


@contextlib.contextmanager
def forked(count: int, follow: Callable[[], int], abandon: Callable[[BackdropError], object] = _end) -> Iterator[None]:
    """Makes this process rank 0 of `count`, and forks the others, each of which runs `follow` and exits with its code.

    They end with this process, however it ends. Where ranks were started from outside nothing is forked. Raises
    BackdropError naming the rank when another one's end is what made this one fail. Where this one does not fail (NCCL
    waits for the dead), a thread calls `abandon` with that error, and it ends the process. To be called before anything
    has computed: threads of a mathematics library do not survive a fork.
    """
    if count == 1 or place().ranks > 1:
        yield
        return
    watched, held = os.pipe()
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = free_port()
    children = {}
    for rank in range(1, count):
        pid = os.fork()
        if pid == 0:
            os.close(held)
            _run_child(rank, shared, watched, follow)
        children[pid] = rank
    os.close(watched)
    before = {name: os.environ.get(name) for name in (*VARIABLES, *shared)}
    _show(0, shared)
    others = _Others(children, abandon)
    try:
        yield
    except Exception as error:
        failure = others.failure(error)
        if failure is None:
            raise
        log.error("rank 0 failed too", exc_info=error)
        raise failure from error
    finally:
        os.close(held)
        others.join()
        for name, value in before.items():  # one by one: threads read the environment meanwhile
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Others:
    """The forked ranks, each waited for by a thread."""

    def __init__(self, children: Mapping[int, int], abandon: Callable[[BackdropError], object]) -> None:
        self._count, self._abandon = len(children) + 1, abandon
        self._bad: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()  # (rank, code), in the order of their ends
        self._left = threading.Event()  # rank 0 has failed or is done
        self._threads = [threading.Thread(target=self._wait, args=item, daemon=True) for item in children.items()]
        for thread in self._threads:
            thread.start()

    def failure(self, error: Exception) -> BackdropError | None:
        """The bad end of another rank that made rank 0 fail with `error`; None where that is rank 0's own."""
        self._left.set()
        explained = isinstance(error, BackdropError)
        try:
            rank, code = self._bad.get(timeout=EXPLAINED_PATIENCE_S if explained else END_PATIENCE_S)
        except queue.Empty:
            return None
        # What explains itself is what the others ended with too, unless one was killed, which says nothing.
        return None if explained and code > 0 else self._named(rank, code)

    def join(self) -> None:
        self._left.set()
        for thread in self._threads:
            thread.join()

    def _wait(self, pid: int, rank: int) -> None:
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)  # negative: by that signal
        if code:
            self._bad.put((rank, code))
            if not self._left.wait(NOTICE_PATIENCE_S):
                self._abandon(self._named(rank, code))

    def _named(self, rank: int, code: int) -> BackdropError:
        kind = BackdropError if code == BackdropError.exit_code else ServiceError  # killed, say: to be tried again
        return kind(
            f"rank {rank} of {self._count} ended with code {code}, and the others cannot go on without it",
            "its own message stands above in the job's log; start the job again: it resumes its save",
        )


def _run_child(rank: int, shared: Mapping[str, Any], watched: int, follow: Callable[[], int]) -> None:
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # rank 0 is asked too: it saves with the others, then ends them
        threading.Thread(target=_end_with_parent, args=(watched,), name="parent", daemon=True).start()
        _show(rank, shared)
        code = follow()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _end_with_parent(watched: int) -> None:
    os.read(watched, 1)  # the end of the pipe, when the parent has ended or has closed it
    os._exit(0)


def _show(rank: int, shared: Mapping[str, Any]) -> None:
    values = {**shared, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in values.items()})
