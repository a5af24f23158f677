"""The ranks of a job that computes in several processes at once.

Rank 0 is the job: it holds the folder's lock, speaks to the launcher and writes to the store. The others run the same
verb on the same spec beside it; what they write stays with them. They are forked here, or started from outside:

    python -m training pretrain --spec …                                  as many as the spec says, on this machine
    torchrun --nproc-per-node 8 --nnodes 2 … -m training pretrain --spec …
    composer -n 8 -m training pretrain --spec …

Who they are stands in the variables that all three use: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, NODE_RANK.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from infra.errors import BackdropError, ServiceError
from infra.processes import free_port

END_PATIENCE_S = 5.0
"""How long a failing rank 0 waits to learn that another rank's end was the reason."""


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
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
    defaults = ("0", "1", "0", given.get("WORLD_SIZE", "1"), given.get("GROUP_RANK", "0"))
    return Place(*(int(given.get(name, default)) for name, default in zip(names, defaults, strict=True)))


def complete(environment: MutableMapping[str, str]) -> None:
    """Adds what Composer reads and the starter left out: torchrun calls the node's rank GROUP_RANK."""
    here = place(environment)
    values = (here.rank, here.ranks, here.local_rank, here.local_ranks, here.node)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
    for name, value in zip(names, values, strict=True):
        environment.setdefault(name, str(value))


@contextlib.contextmanager
def forked(count: int, follow: Callable[[], int]) -> Iterator[None]:
    """Makes this process rank 0 of `count`, and forks the others, each of which runs `follow` and exits with its code.

    They end with this process, however it ends. Where ranks were started from outside nothing is forked. Raises
    BackdropError naming the rank when another one's end is what made this one fail. To be called before anything has
    computed: threads of a mathematics library do not survive a fork.
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
    before = dict(os.environ)
    _show(0, shared)
    try:
        yield
    except Exception as error:
        failed = None if isinstance(error, BackdropError) else _failed(children)
        if failed is None:
            raise
        rank, code = failed
        kind = BackdropError if code == BackdropError.exit_code else ServiceError  # killed, say: to be tried again
        raise kind(
            f"rank {rank} of {count} ended with code {code}, and the others cannot go on without it",
            "its own message stands above in the job's log; start the job again: it resumes its save",
        ) from error
    finally:
        os.close(held)
        for pid in children:
            os.waitpid(pid, 0)
        os.environ.clear()
        os.environ.update(before)


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


def _failed(children: dict[int, int]) -> tuple[int, int] | None:
    """The first rank that has ended badly, and its code (negative: by that signal); reaped ones are taken out."""
    deadline = time.monotonic() + END_PATIENCE_S
    while children and time.monotonic() < deadline:
        for pid, rank in list(children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del children[pid]
                code = os.waitstatus_to_exitcode(status)
                if code:
                    return rank, code
        time.sleep(0.05)
    return None
