"""The kinds of causes, and what a source has seen of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from infra.catalog.rows import Alert


class Kind(StrEnum):
    """Each is also the anchor of its section in docs/runbook.md (a test holds that)."""

    RUN_FAILED = "run-failed"
    GATE_REFUSED = "gate-refused"
    DRIFT = "drift"
    BUDGET = "budget"
    TAINTED = "tainted-champion"
    FALLBACK = "engine-fallback"
    PIXELS = "pixels-violated"


#: What happens and is over at once; everything else holds until it is seen to have ended.
ONCE = frozenset({Kind.RUN_FAILED})
HOLDING = frozenset(Kind) - ONCE

#: How far the very first look goes back: who turns alerts on wants to hear of last night, not of last year.
LOOK_BACK = timedelta(days=1)

#: Looked at twice: clocks differ, and a failed run is marked as one that is tried again only after it has failed.
OVERLAP = timedelta(minutes=10)

#: How long a message is tried for; what was over for so long is no news to anybody.
GIVE_UP = timedelta(days=3)

#: What many of a kind are called.
MANY = {
    Kind.RUN_FAILED: "runs have failed",
    Kind.GATE_REFUSED: "engines were refused",
    Kind.DRIFT: "deliveries look unlike those before",
    Kind.BUDGET: "times automation was paused",
    Kind.TAINTED: "times a champion was tainted by a takedown",
    Kind.FALLBACK: "engines run on another backend than they should",
    Kind.PIXELS: "times a product's pixels were changed",
}

#: What to do first; the runbook says the rest.
FIRST = {
    Kind.RUN_FAILED: "Open the run, read its error, then launch it again: what is finished is reused.",
    Kind.GATE_REFUSED: "Look at the report. The champion stays until an engine passes, or somebody promotes one.",
    Kind.DRIFT: "Look at the delivery's report: a new kind of picture may be what was wanted.",
    Kind.BUDGET: "Wait for the new week, or raise the budget. Runs that people start are not held back.",
    Kind.TAINTED: "Retrain: the next retraining uses the clean dataset version. `backdrop rollback` if it cannot wait.",
    Kind.FALLBACK: "Answers are right and slow. Read the engine's log for why, then build its plans again.",
    Kind.PIXELS: "Take the engine out of service: `backdrop rollback`. Keep the answer; this must never happen.",
}


@dataclass(frozen=True)
class Seen:
    """What a source has seen: causes whose keys begin with `scope`.

    `current`: the keys of those that hold now, so that open ones beside them have ended; None: nothing ends here.
    `memory`: what the source wants to be given next time.
    """

    scope: str
    causes: tuple[Alert, ...] = ()
    current: frozenset[str] | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)


def holding(scope: str, causes: Collection[Alert], memory: Mapping[str, Any] | None = None) -> Seen:
    """Of a source that sees all there is: what it does not see any more has ended."""
    return Seen(scope, tuple(causes), frozenset(one.cause for one in causes), memory or {})


@dataclass(frozen=True)
class Pages:
    """Where people open things; empty where nobody can."""

    dagster: str = ""
    mlflow: str = ""
    runbook: str = ""

    def run(self, run_id: str) -> dict[str, str]:
        return {"run": f"{self.dagster}/runs/{run_id}"} if self.dagster and run_id else {}

    def asset(self, name: str, partition: str = "") -> dict[str, str]:
        tail = f"?partition={partition}" if partition else ""
        return {"asset": f"{self.dagster}/assets/{name}{tail}"} if self.dagster else {}

    def model(self, name: str, version: str) -> dict[str, str]:
        return {"model": f"{self.mlflow}/#/models/{name}/versions/{version}"} if self.mlflow else {}

    def section(self, kind: str) -> str:
        """The runbook's section on a kind."""
        return f"{self.runbook}#{kind}"


def cause(
    kind: Kind, key: str, title: str, detail: str, since: datetime, links: Mapping[str, str] | None = None
) -> Alert:
    """A cause; its text is made short and free of passwords."""
    return Alert(key, kind, plain(title, 200), plain(detail, 1200), since, dict(links or {}))


def plain(text: str, length: int) -> str:
    """At most so many characters, without control characters, and without the password of a URL that is in it."""
    text = re.sub(r"(?<=://)[^\s/@]+@", "", text)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text).strip()
    return text if len(text) <= length else f"{text[: length - 1]}…"
