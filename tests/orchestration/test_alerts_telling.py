"""Telling of alerts: how many messages, how long each is tried, and what is no news any more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.line import Line
from infra.catalog import Catalog
from infra.catalog.rows import Alert
from infra.notify import NotDelivered, Notice, Webhook
from infra.settings import REPOSITORY
from orchestration.alerts import sensor
from orchestration.alerts.causes import FIRST, GIVE_UP, MANY, Kind, plain
from orchestration.alerts.listing import newest
from orchestration.alerts.sensor import alerts
from orchestration.alerts.telling import GATHER, HOUR, SINGLES, fold, tell, wait_after
from tests.infra.receivers import webhook
from tests.orchestration.alerting import NOON, PAGES, alert


def test_a_few_alerts_are_told_one_by_one_and_many_as_one() -> None:
    few, many = [alert(k) for k in range(SINGLES)], [alert(k) for k in range(100)]
    assert fold([], 0, None, NOON) == []
    assert fold(few, 0, None, NOON) == [[one] for one in few]
    assert fold(many, 0, None, NOON) == [many]
    assert fold(many, 0, NOON - timedelta(minutes=59), NOON) == [], "the next digest waits for its hour"
    assert fold(few[:1], SINGLES, None, NOON) == [], "it waits for others"
    assert fold(few[:1], SINGLES, None, NOON + GATHER) == [few[:1]]


def test_a_hundred_in_an_hour_are_few_messages_and_none_is_left_out() -> None:
    """As the sensor sees them: one every 36 seconds, looked at twice a minute."""
    waiting: list[Alert] = []
    told: list[tuple[datetime, list[Alert]]] = []
    for tick in range(400):
        now = NOON + timedelta(seconds=30 * tick)
        waiting += [alert(k, now) for k in range(100) if tick * 30 <= k * 36 < tick * 30 + 30]
        recent = [(at, group) for at, group in told if at > now - HOUR]
        digests = [at for at, group in recent if len(group) > 1]
        groups = fold(waiting, sum(len(g) == 1 for _, g in recent), digests[-1] if digests else None, now)
        for group in groups:
            told.append((now, group))
            waiting = [one for one in waiting if one not in group]
    assert waiting == []
    assert sorted(one.id for _, group in told for one in group) == list(range(100))
    assert len(told) <= SINGLES + 3


def test_waits_grow_to_an_hour() -> None:
    waits = [wait_after(attempts) for attempts in range(1, 30)]
    assert waits[:4] == [timedelta(seconds=30 * 2**k) for k in range(4)]
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(hours=1)
    assert wait_after(1, 600) == timedelta(seconds=600)
    assert wait_after(1, 1e9) == timedelta(hours=1)


def test_a_text_holds_no_password() -> None:
    assert plain("cannot reach postgresql://anna:s3cret@db:5432/x", 200) == "cannot reach postgresql://db:5432/x"
    assert plain("a\x1b[31mb\x00", 20) == "a [31mb"
    assert len(plain("x" * 500, 100)) == 100


def test_every_kind_is_worded_and_has_its_section_in_the_runbook() -> None:
    assert set(FIRST) == set(MANY) == set(Kind)
    text = (REPOSITORY / "docs" / "runbook.md").read_text()
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^### (.*)$", text, re.MULTILINE)}
    assert set(Kind) <= headings


def test_the_sensor_is_off_until_there_is_somewhere_to_tell() -> None:
    assert alerts.default_status == dg.DefaultSensorStatus.STOPPED


# ── on a catalog ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Receiver:
    """A destination that takes what comes while it is there."""

    def __init__(self, name: str = "webhook", there: bool = True) -> None:
        self.name, self.there, self.tried = name, there, 0
        self.got: list[str] = []

    def send(self, notice: Notice) -> None:
        self.tried += 1
        if not self.there:
            raise NotDelivered("nobody is there", away=True)
        self.got.append(notice.key.partition("#")[0])


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    catalog = Catalog(catalog_url)
    yield catalog
    catalog.close()


def told(catalog: Catalog, receiver: Receiver, at: datetime) -> list[str]:
    """What it got in one go."""
    before = len(receiver.got)
    tell(catalog, [receiver], PAGES, lambda: at)
    return receiver.got[before:]


@pytest.mark.integration
def test_what_nobody_takes_is_given_up_after_three_days(catalog: Catalog) -> None:
    receiver, began = Receiver(there=False), datetime.now(UTC) - timedelta(days=8)
    catalog.begin_alerts([alert(1), alert(2, kind=Kind.TAINTED)], ["webhook"], began)
    for hours in range(24 * 3):
        told(catalog, receiver, began + timedelta(hours=hours))
    tried = receiver.tried
    assert tried >= 24 * 3
    for hours in range(24 * 4):
        told(catalog, receiver, began + GIVE_UP + timedelta(hours=hours))
    assert receiver.tried == tried
    rows = newest(catalog, 2)
    assert [row["told"].partition(", tried")[0] for row in rows] == ["webhook: given up", "webhook: given up"]
    assert all(row["told"].endswith("nobody is there") for row in rows)

    # It is there again, which its next message shows: it hears of what still holds, and not of what happened last week.
    receiver.there = True
    assert told(catalog, receiver, began + timedelta(days=7)) == []
    catalog.begin_alerts([alert(3)], ["webhook"], began + timedelta(days=7))
    assert told(catalog, receiver, began + timedelta(days=7)) == ["run-failed:3"]
    assert told(catalog, receiver, began + timedelta(days=7)) == ["tainted-champion:2"]
    assert told(catalog, receiver, began + timedelta(days=7)) == []


@pytest.mark.integration
def test_a_destination_that_comes_back_after_a_year_hears_what_holds_and_nothing_old(catalog: Catalog) -> None:
    email, later = Receiver("email"), NOON + timedelta(days=365)
    storm = [alert(k) for k in range(SINGLES + 1)]
    ended, holds = alert(7, kind=Kind.DRIFT), alert(8, kind=Kind.TAINTED)
    catalog.begin_alerts([*storm, ended, holds], ["email"], NOON)
    catalog.end_alerts("drift:", [Kind.DRIFT], [], NOON + timedelta(hours=1))
    assert told(catalog, email, later) == ["tainted-champion:8"]
    assert [one.waiting for one in catalog.newest_alerts(20)] == [()] * 8


@pytest.mark.integration
def test_what_ended_a_moment_ago_is_told(catalog: Catalog) -> None:
    receiver = Receiver()
    catalog.begin_alerts([alert(1, kind=Kind.DRIFT)], ["webhook"], NOON)
    catalog.end_alerts("drift:", [Kind.DRIFT], [], NOON + timedelta(minutes=1))
    assert told(catalog, receiver, NOON + timedelta(minutes=2)) == ["drift:1"]


@pytest.mark.integration
def test_what_is_due_is_sent_before_anything_is_looked_at(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster ends a sensor after a minute: a source that takes it all must not keep what was written before."""

    def never(*_: object) -> None:
        raise TimeoutError("the minute is over")

    monkeypatch.setattr(sensor, "notice", never)
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path))
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog.url.replace("+psycopg", ""))
    with webhook() as hook, dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setenv("BACKDROP_ALERT_WEBHOOK", hook.url)
        now = datetime.now(UTC)
        catalog.begin_alerts([alert(1, now)], [Webhook.name], now)
        with (
            dg.build_sensor_context(instance=instance, resources={"line": Line()}) as context,
            pytest.raises(TimeoutError),
        ):
            alerts(context)
        assert [post["causes"] for post in hook.posts] == [["run-failed:1"]]
