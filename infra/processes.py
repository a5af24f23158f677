"""Small questions about this machine's processes, ports and log files."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import threading
from pathlib import Path


def answers(port: int) -> bool:
    """Whether somebody listens on this TCP port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def is_free(port: int) -> bool:
    """Whether this TCP port of 127.0.0.1 can be bound now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(path: Path) -> str:
    """The end of a log file; empty when it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[-4000:]
    return ""


def last_line(text: str) -> str:
    """The last line of a text that is not blank."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def end_with_parent() -> None:
    """For a worker of a process pool: end when the parent is killed, instead of waiting for work for ever."""
    threading.Thread(target=_wait_for_parent, name="parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
