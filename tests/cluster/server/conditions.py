"""Conditions in the status of jobs, pods, nodes and workloads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.cluster.server.objects import Object, stamp


def find(status: Object, kind: str) -> Object | None:
    return next((c for c in status.get("conditions", []) if c["type"] == kind), None)


def holds(status: Object, kind: str) -> bool:
    """Whether this condition is there and true."""
    found = find(status, kind)
    return found is not None and found["status"] == "True"


def put(status: Object, kind: str, value: str, now: datetime, reason: str = "", message: str = "", **more: Any) -> bool:
    """Sets a condition in a status that the caller owns; whether anything changed. A new value gets a new time."""
    old = find(status, kind)
    text = {"reason": reason, "message": message}
    said = {name: value for name, value in text.items() if value}
    if old is not None and old["status"] == value and {n: old[n] for n in text if n in old} == said:
        return False
    moment = old["lastTransitionTime"] if old is not None and old["status"] == value else stamp(now)
    new = {"type": kind, "status": value, "lastTransitionTime": moment} | said | more
    status["conditions"] = [new if c["type"] == kind else c for c in status.get("conditions", [])]
    if old is None:
        status["conditions"].append(new)
    return True


def moment(text: str) -> datetime:
    """The time that `stamp` wrote."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
