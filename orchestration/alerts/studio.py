"""What the studio counts, read from its /metrics page: engines that fell back, and product pixels that were changed."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from infra.errors import ServiceError
from infra.notify import is_here, within
from orchestration.alerts.causes import Kind, Seen, cause, holding

FALLBACK, VIOLATED = "engine_fallback_total", "product_pixels_violated_total"
_STARTED = "product_pixels_violated_created"  # by which one process of the studio is told from the next
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


def studio(counted: Mapping[str, float], url: str, now: datetime) -> list[Seen]:
    """What has been counted since this process of the studio began. One more is another cause: it came again."""
    began = counted.get(_STARTED, 0.0)
    since = datetime.fromtimestamp(began, UTC) if began else now
    seen = []
    for name, kind, said in (
        (FALLBACK, Kind.FALLBACK, "the studio has opened an engine on ONNX Runtime in place of TensorRT"),
        (VIOLATED, Kind.PIXELS, "the studio has counted answers whose product pixels were not the input's"),
    ):
        scope = f"{'fallback' if kind == Kind.FALLBACK else 'pixels'}:studio:{url}:"
        number = int(counted.get(name, 0.0))
        detail = f"{name} is {number} since {since:%Y-%m-%d %H:%M} UTC"
        found = [cause(kind, f"{scope}{int(began)}:{number}", said, detail, now, {"studio": url})] if number else []
        seen.append(holding(scope, found))
    return seen
