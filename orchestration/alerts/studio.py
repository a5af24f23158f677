"""What the studio counts, read from its /metrics page: engines that fell back, and product pixels that were changed."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from infra.errors import ServiceError
from infra.notify import is_here, within
from orchestration.alerts.causes import Kind, Seen, cause

FALLBACK, VIOLATED = "engine_fallback_total", "product_pixels_violated_total"
_STARTED = "product_pixels_violated_created"  # by which one process of the studio is told from the next
GONE = timedelta(hours=1)
"""A process of the studio that has not answered for so long is no more."""
_SECONDS = 5.0
_LONGEST = 1 << 20
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? ([^ ]+)")


def counters(text: str) -> dict[str, float]:
    """Name → sum over its labels, of a page in Prometheus' text format."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            try:
                found[match[1]] = found.get(match[1], 0.0) + float(match[2])
            except ValueError:
                continue
    return found


def read(url: str) -> dict[str, float]:
    """The studio's counters. Raises ServiceError where it does not answer."""
    handlers = [urllib.request.ProxyHandler({})] if is_here(urlsplit(url).hostname or "") else []

    def get() -> str:
        with urllib.request.build_opener(*handlers).open(f"{url.rstrip('/')}/metrics", timeout=_SECONDS) as answer:
            return str(answer.read(_LONGEST).decode(errors="replace"))

    try:
        return counters(within(_SECONDS, get, f"{url} has not answered"))
    except (OSError, ValueError) as error:
        raise ServiceError(f"the studio at {url} does not answer: {error}", "see docs/runbook.md#studio") from None


def studio(counted: Mapping[str, float], url: str, memory: Mapping[str, Any], now: datetime) -> list[Seen]:
    """What has been counted since this process of the studio began. One more is another cause: it came again.

    Several processes may answer at one address in turn. What one has counted holds until it has not answered for GONE.
    memory: processes   when it began → what it counted, and when it answered last
    """
    began = counted.get(_STARTED, 0.0)
    since = datetime.fromtimestamp(began, UTC) if began else now
    processes = {
        process: known
        for process, known in memory.get("processes", {}).items()
        if now - datetime.fromisoformat(known["at"]) < GONE
    }
    numbers = {name: int(counted.get(name, 0.0)) for name in (FALLBACK, VIOLATED)}
    processes[str(int(began))] = {**numbers, "at": now.isoformat()}
    seen = []
    for name, kind, said in (
        (FALLBACK, Kind.FALLBACK, "the studio has opened an engine on ONNX Runtime in place of TensorRT"),
        (VIOLATED, Kind.PIXELS, "the studio has counted answers whose product pixels were not the input's"),
    ):
        # No address has a space in it: none is the beginning of another one's scope.
        scope = f"{'fallback' if kind == Kind.FALLBACK else 'pixels'}:studio:{url} "
        number = numbers[name]
        detail = f"{name} is {number} since {since:%Y-%m-%d %H:%M} UTC"
        found = [cause(kind, f"{scope}{int(began)}:{number}", said, detail, now, {"studio": url})] if number else []
        current = {f"{scope}{process}:{known[name]}" for process, known in processes.items() if known[name]}
        seen.append(Seen(scope, tuple(found), frozenset(current), {"processes": processes}))
    return seen
