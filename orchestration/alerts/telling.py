"""From alerts to messages, and from messages to their receivers.

alerts that wait ─► fold: one by one, or a storm as one ─► written down ─► sent ─► marked as sent
                                                                ▲           │
                                                                └─ later ◄──┘ not taken, for three days
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from infra.catalog.rows import Alert, AlertMessage
from infra.errors import BackdropError
from infra.notify import Destination, NotDelivered, Notice
from orchestration.alerts.causes import GIVE_UP, HOLDING, ONCE, Pages
from orchestration.alerts.wording import notice_of

if TYPE_CHECKING:
    from infra.catalog.alerts import Alerts

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
SINGLES = 5
"""So many alerts of a kind are told one by one within an hour; more of them are a storm."""
GATHER = timedelta(minutes=15)
"""How long the first of a storm waits for others."""
SECONDS = 30.0
"""For all sending of one go: Dagster ends a sensor after a minute."""
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=30), HOUR
_AT_ONCE = 20  # messages to one destination in one go


def fold(waiting: Sequence[Alert], singles: int, digest: datetime | None, now: datetime) -> list[list[Alert]]:
    """The messages to write now about alerts of one kind: each list is one; those in none go on waiting.

    `singles`: how many were told one by one in the last hour; `digest`: when many were last told at once in it.
    """
    if not waiting or digest is not None:  # in a storm there is one digest an hour
        return []
    if singles + len(waiting) <= SINGLES:
        return [[one] for one in waiting]
    oldest = min(one.noticed_at or now for one in waiting)
    return [list(waiting)] if len(waiting) > SINGLES or now - oldest >= GATHER else []


def wait_after(attempts: int, asked: float = 0.0) -> timedelta:
    """How long a message rests that was refused `attempts` times: twice as long each time, an hour at most."""
    doubled = _FIRST_WAIT * 2 ** min(max(attempts, 1) - 1, 10)
    return min(max(doubled, timedelta(seconds=asked)), _LONGEST_WAIT)


@dataclass(frozen=True)
class Told:
    """What came of sending. `away`: the destinations that take nothing now."""

    sent: int = 0
    failed: int = 0
    away: frozenset[str] = frozenset()

    def __add__(self, other: Told) -> Told:
        return Told(self.sent + other.sent, self.failed + other.failed, self.away | other.away)

    def __str__(self) -> str:
        again = f", {self.failed} not taken: they are tried again" if self.failed else ""
        return f"{self.sent} messages sent{again}"


def tell(
    catalog: Alerts,
    targets: Sequence[Destination],
    pages: Pages,
    clock: Callable[[], datetime],
    seconds: float = SECONDS,
) -> Told:
    """Writes what has to be written and sends what is due, for so many seconds."""
    told = Told()
    until = time.monotonic() + seconds
    for target in targets:
        write(catalog, target.name, pages, clock())
        for message in catalog.due_messages(target.name, clock() - GIVE_UP, clock(), _AT_ONCE):
            if time.monotonic() > until:
                break
            problem = deliver(catalog, target, message, clock)
            told += Told(sent=1) if problem is None else Told(failed=1)
            if problem is not None and problem.away:  # the others would only wait for the same silence
                told += Told(away=frozenset({target.name}))
                break
    return told


def write(catalog: Alerts, destination: str, pages: Pages, now: datetime) -> None:
    """Writes the messages that are due to a destination; nothing is sent yet."""
    catalog.drop_waiting(destination, ONCE, now - GIVE_UP)
    catalog.join_alerts(destination, HOLDING, now, GIVE_UP)
    by_kind: dict[str, list[Alert]] = defaultdict(list)
    for alert in catalog.waiting_alerts(destination):
        by_kind[alert.kind].append(alert)
    for kind, waiting in by_kind.items():
        earlier = catalog.messages_since(destination, kind, now - HOUR)
        digests = [one.written_at for one in earlier if len(one.alerts) > 1]
        singles = sum(len(one.alerts) == 1 for one in earlier)
        for group in fold(waiting, singles, digests[-1] if digests else None, now):
            notice = notice_of(group, pages)
            said = {"key": notice.key, "subject": notice.subject, "text": notice.text, "fields": dict(notice.fields)}
            catalog.write_message(destination, kind, [one.id for one in group], said, now)


def deliver(
    catalog: Alerts, target: Destination, message: AlertMessage, clock: Callable[[], datetime]
) -> NotDelivered | None:
    """Sends one message and writes down what came of it; None where it was taken."""
    problem: NotDelivered
    try:
        target.send(Notice(**message.notice))
    except NotDelivered as error:
        problem = error
    except BackdropError as error:  # settings that are wrong: the next message would fail of the same
        problem = NotDelivered(error.what, away=True)
    except Exception as error:  # ours, and of this message alone: it must not keep the others
        log.exception("alert message %s cannot be sent", message.id)
        problem = NotDelivered(f"cannot be sent: {type(error).__name__}", away=False)
    else:
        catalog.message_sent(message.id, clock())
        return None
    log.warning("alert message %s was not taken: %s", message.id, problem.what)
    next_at = clock() + wait_after(message.attempts + 1, problem.wait)
    catalog.message_failed(message.id, problem.what, next_at)
    return problem
