"""Requests, what holds after each, and processes that promote and are killed at a chosen step."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from deploy.approvals import Actor
from deploy.promotion import Request
from deploy.reconciliation import reconcile
from deploy.registry import REGISTERED_NAMES, Registry
from infra.catalog import Catalog

MODEL = REGISTERED_NAMES["tensorrt_engine"]
ANNA = Actor("anna")


def request(version: str, reason: str = "better", **fields: Any) -> Request:
    return Request(MODEL, version, fields.pop("actor", ANNA), reason, **fields)


def agree(registry: Registry, catalog: Catalog) -> None:
    """After one more command, alias and ledger say the same, and every intent is closed by one row."""
    reconcile(registry, catalog, MODEL)
    aliases = registry.aliases(MODEL)
    settled = catalog.settled(MODEL, "champion")
    assert aliases.get("champion") == (settled[0].to_version if settled else None)
    assert aliases.get("previous") == (settled[0].from_version if settled else None)
    assert catalog.open_intents(MODEL, "champion") == []
    assert reconcile(registry, catalog, MODEL) == []


class Counted:
    """Anything, whose method calls are counted; before call number `fatal` the process is killed.

    Two of them share one `count`.
    """

    def __init__(self, inner: Any, count: list[int], fatal: int) -> None:
        self._inner, self._count, self._fatal = inner, count, fatal

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._count[0] += 1
            if self._count[0] == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return found(*arguments, **named)

        return call


def in_process(work: Callable[[], Any]) -> int:
    """Runs `work` in a fork; its pid. The fork ends with 0, or 1 after an exception, which it prints."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def end_of(pid: int, seconds: float = 60) -> int:
    """How a fork ended: its exit code, or minus the signal. A fork that does not end is killed and fails the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"process {pid} did not end within {seconds} s")


def killed_at(step: int, uri: str, catalog_url: str, work: Callable[[Any, Any], Any]) -> int:
    """Does `work(registry, catalog)` in a process that is killed before its call number `step`; how it ended."""

    def doomed() -> None:
        count = [0]
        catalog: Any = Counted(Catalog(catalog_url), count, step)
        registry: Any = Counted(Registry(uri), count, step)
        work(registry, catalog)

    return end_of(in_process(doomed))
