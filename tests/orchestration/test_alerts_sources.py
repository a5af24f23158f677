"""What other sources of alerts see: runs that Dagster launches again and again, a studio of several processes, a ledger
of many years, what ended runs have done."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from infra.catalog import Catalog
from infra.catalog.ledger import DONE, REFUSED, Entry
from orchestration import ended_steps
from orchestration.alerts.causes import Kind
from orchestration.alerts.champion import refusals, taints
from orchestration.alerts.runs import PATIENCE, RETRIES, failed_runs
from orchestration.alerts.studio import GONE, counters, studio
from tests.orchestration.alerting import NOON, PAGES, begin_and_end

ENGINE = "backdrop-engine"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


# ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Written:
    """Of the catalog what is written down, and the looks of a sensor."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.causes, self.memory = instance, set(), {}  # type: ignore[var-annotated]

    def written_causes(self, causes: Collection[str]) -> set[str]:
        return self.causes & set(causes)

    def look(self, now: datetime | None = None) -> list[Any]:
        seen = failed_runs(self.instance, self, PAGES, self.memory, now or datetime.now(UTC))  # type: ignore[arg-type]
        self.memory = dict(seen.memory)
        self.causes |= {one.cause for one in seen.causes}
        return list(seen.causes)


@pytest.fixture
def retries(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Dagster as on a cluster: it launches again what dies."""
    monkeypatch.setattr(dg.DagsterInstance, "run_retries_enabled", property(lambda _: True))
    return Written(instance)


def fails(instance: dg.DagsterInstance, after: dg.DagsterRun | None = None, number: int = 0) -> dg.DagsterRun:
    """A run that dies: retry `number` of Dagster's after that one, or launched by somebody."""
    tags = {"dagster/max_retries": "1000"} | ({"dagster/retry_number": str(number)} if number else {})
    root = after.tags.get("dagster/root_run_id", after.run_id) if after else None
    if after:
        tags |= {"dagster/parent_run_id": after.run_id, "dagster/root_run_id": str(root)}
    run = create_run_for_test(
        instance, "retrain", tags=tags, parent_run_id=after.run_id if after else None, root_run_id=root
    )
    if after and number:
        instance.add_run_tags(after.run_id, {"dagster/auto_retry_run_id": run.run_id})
    instance.report_run_failed(run)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.tags["dagster/will_retry"] == "true"
    return found


def test_a_run_that_is_launched_again_for_ever_is_told_once(retries: Written) -> None:
    run = first = fails(retries.instance)
    told = {0: retries.look()}
    for number in range(1, 3 * RETRIES):
        run = fails(retries.instance, run, number)
        told[number] = retries.look()
    assert [number for number, causes in told.items() if causes] == [RETRIES]
    [cause] = told[RETRIES]
    assert cause.cause == f"run-failed:{first.run_id}"
    assert "retry 3 of Dagster's, and Dagster goes on launching it" in cause.detail
    retries.memory.pop("retries")
    assert retries.look() == [], "also where nobody remembers which run began it"

    # Somebody launches it again, and that fails too: a cause of its own, and its retries are of it.
    mine = fails(retries.instance, run)
    retry = fails(retries.instance, mine, 1)
    assert retries.look() == []
    later = datetime.now(UTC) + PATIENCE
    assert [one.cause for one in retries.look(later)] == [f"run-failed:{mine.run_id}"]
    assert retry.tags["dagster/root_run_id"] == first.run_id
    assert retries.look(later) == []


def test_a_run_that_was_to_be_launched_again_and_was_not(retries: Written) -> None:
    """Dagster says so of each that dies, and then does not where its backfill is over."""
    run, followed = fails(retries.instance), fails(retries.instance)
    create_run_for_test(retries.instance, "retrain", parent_run_id=followed.run_id, root_run_id=followed.run_id,
                        tags={"dagster/parent_run_id": followed.run_id})  # fmt: skip
    now = datetime.now(UTC)
    assert retries.look(now + PATIENCE / 2) == []
    [cause] = retries.look(now + PATIENCE)
    assert cause.cause == f"run-failed:{run.run_id}"
    assert "Dagster was to launch it again and has not" in cause.detail
    assert retries.look(now + PATIENCE) == []


# ── the studio ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_studio_counts_is_a_cause_of_its_own_each_time() -> None:
    page = (
        '# HELP x y\nengine_fallback_total 0.0\nproduct_pixels_violated_total{task="fill"} 1.0\n'
        'product_pixels_violated_total{task="erase"} 1.0\nproduct_pixels_violated_created 1700000000.5\nnot a line\n'
    )
    fallback, pixels = studio(counters(page), "http://s", {}, NOON)
    assert fallback.causes == ()
    assert fallback.current == frozenset()
    assert [one.cause for one in pixels.causes] == ["pixels:studio:http://s 1700000000:2"]
    assert pixels.causes[0].kind == Kind.PIXELS


def test_two_processes_of_a_studio_at_one_address() -> None:
    open_causes: set[str] = set()
    memory: Mapping[str, Any] = {}

    def look(minutes: float, began: int, violations: int) -> list[str]:
        nonlocal memory
        counted = {"product_pixels_violated_created": float(began), "product_pixels_violated_total": float(violations)}
        new = []
        for seen in studio(counted, "http://s", memory, NOON + timedelta(minutes=minutes)):
            new += begin_and_end(open_causes, seen)
            memory = seen.memory
        return new

    assert look(0, 1, 2) == ["pixels:studio:http://s 1:2"]
    for minute in range(1, 30):
        assert look(minute, 2 - minute % 2, 2 * (minute % 2)) == [], "it is told once, whoever answers"
    assert open_causes == {"pixels:studio:http://s 1:2"}
    assert look(30, 2, 1) == ["pixels:studio:http://s 2:1"]
    assert look(31, 1, 3) == ["pixels:studio:http://s 1:3"], "one more is another"
    assert open_causes == {"pixels:studio:http://s 1:3", "pixels:studio:http://s 2:1"}
    gone = 31 + GONE.total_seconds() / 60
    look(gone - 1, 2, 1)
    assert len(open_causes) == 2
    look(gone, 2, 1)
    assert open_causes == {"pixels:studio:http://s 2:1"}


def test_a_studio_at_another_port_is_another_studio() -> None:
    counted = {"product_pixels_violated_total": 1.0}
    one, other = (studio(counted, url, {}, NOON)[1] for url in ("http://studio", "http://studio:8001"))
    assert not other.causes[0].cause.startswith(one.scope)


# ── the ledger ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.integration
def test_a_ledger_of_many_years_is_read_from_its_last_move_on(
    catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, read = Catalog(catalog_url), []
    plainly = Catalog._entries

    def counting(self: Catalog, query: Any) -> list[Entry]:
        found = plainly(self, query)
        read.append(len(found))
        return found

    monkeypatch.setattr(Catalog, "_entries", counting)

    def add(kind: str, version: str) -> None:
        catalog.add_entry(Entry(kind, ENGINE, "champion", to_version=version, reason=f"about {version}"))

    def look(now: datetime) -> list[str]:
        nonlocal memory
        read.clear()
        seen = refusals(catalog, [ENGINE], PAGES, memory, now)
        memory = seen.memory
        new = begin_and_end(open_causes, seen)
        catalog.begin_alerts([one for one in seen.causes if one.cause in new], [], now)
        return [one.split(":")[4] for one in new]

    memory: Mapping[str, Any] = {}
    open_causes: set[str] = set()
    for version in range(50):
        add(REFUSED, f"a{version}")
        add(DONE, f"b{version}")
    add(REFUSED, "c")
    now = datetime.now(UTC)
    assert set(look(now)) == {f"a{version}" for version in range(50)} | {"c"}
    assert len(open_causes) == 1, "what was refused before the last move is over"
    add(REFUSED, "d")
    add(DONE, "e")
    add(REFUSED, "f")
    assert set(look(now)) == {"d", "f"}, "also what was refused before a move that nobody had seen"
    assert [one.split(":")[4] for one in open_causes] == ["f"]
    for hours in (1, 2):
        assert look(now + timedelta(hours=hours)) == []
    assert sum(read) == 2, "the move, and what was refused since"
    assert [one.split(":")[4] for one in open_causes] == ["f"]
    catalog.close()


def test_what_an_ended_run_has_done_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stats(run: str, step_keys: list[str]) -> list[str]:
        asked.append(run)
        return []

    instance: Any = SimpleNamespace(get_run_step_stats=stats)

    def record(run: str, seconds: float) -> Any:
        end = datetime.now(UTC).timestamp() - seconds
        return SimpleNamespace(dagster_run=SimpleNamespace(run_id=run), end_time=end)

    monkeypatch.setattr(ended_steps, "_kept", {})
    monkeypatch.setattr(ended_steps, "_MOST", 3)
    old, young = record("old", 2 * ended_steps.RESTS), record("young", 1.0)
    for _ in range(3):
        assert ended_steps.steps_of(instance, old, ("a",)) == []
        ended_steps.steps_of(instance, young, ("a",))
    assert asked.count("old") == 1
    assert asked.count("young") == 3, "its steps may still end"
    for number in range(10):
        ended_steps.steps_of(instance, record(str(number), 2 * ended_steps.RESTS), ("a",))
    assert len(ended_steps._kept) == 3


# ── takedowns ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_cause_for_each_takedown() -> None:
    found = taints(
        ENGINE, "4", ["takedown 3: sold; gone", "gone", "takedown 7: licence", "takedown 3: sold"], PAGES, NOON
    )
    assert [one.cause for one in found] == [f"tainted:{ENGINE}:4:3", f"tainted:{ENGINE}:4:7"]
    assert found[0].detail == "takedown 3: sold; gone"
