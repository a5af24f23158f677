"""Checks that are planned long before they have a result: for alerts, and for `backdrop status`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import DagsterEvent
from dagster._core.test_utils import create_run_for_test

from assets.curation.drift import CHECKS as DRIFT
from deploy.specs import CHECKS as EVALUATION
from orchestration.alerts import checks
from tests.orchestration.alerting import PAGES, begin_and_end


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def new_run(instance: dg.DagsterInstance, delivery: str = "") -> str:
    tags = {"dagster/partition": delivery} if delivery else {}
    return str(create_run_for_test(instance, job_name="ingest", tags=tags).run_id)


def plan(instance: dg.DagsterInstance, run: str, asset: str = checks.SHARDS, *names: str) -> None:
    """As Dagster does when it makes a run: a row of each check that it will come to."""
    for name in names or DRIFT:
        planned = AssetCheckEvaluationPlanned(asset_key=dg.AssetKey(asset), check_name=name)
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value
        instance.report_dagster_event(DagsterEvent(kind, "ingest", event_specific_data=planned), run)


def find(instance: dg.DagsterInstance, run: str, asset: str = checks.SHARDS, **passed: bool) -> None:
    """As Dagster does when the run has come to them: the results of checks, into those rows."""
    for name, good in passed.items():
        result = dg.AssetCheckEvaluation(asset_key=dg.AssetKey(asset), check_name=name, passed=good, metadata={})
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
        instance.report_dagster_event(DagsterEvent(kind, "ingest", event_specific_data=result), run)


def soon() -> datetime:
    """When what was written just now has rested."""
    return datetime.now(UTC) + timedelta(seconds=checks.SETTLE + 1)


class Looker:
    """Looks for drift as the sensor does, with what it remembers."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.memory = instance, {}  # type: ignore[var-annotated]
        self.open: set[str] = set()

    def look(self) -> set[str]:
        """The causes that hold then."""
        for seen in checks.drift(self.instance, PAGES, self.memory, soon()):
            begin_and_end(self.open, seen)
            self.memory = dict(seen.memory)
        return self.open


def test_a_look_between_planning_and_result_loses_nothing(instance: dg.DagsterInstance) -> None:
    looker, run = Looker(instance), new_run(instance, "monday")
    plan(instance, run)
    assert looker.look() == set()
    find(instance, run, resolution_drift=False)
    assert looker.look() == {"drift:monday"}
    find(instance, run, caption_drift=True)
    assert looker.look() == {"drift:monday"}, "another of its checks says nothing of this one"
    again = new_run(instance, "monday")
    plan(instance, again)
    assert looker.look() == {"drift:monday"}
    find(instance, again, resolution_drift=True)
    assert looker.look() == set()


def test_a_result_is_seen_before_hundreds_of_runs_that_wait(instance: dg.DagsterInstance) -> None:
    looker, run = Looker(instance), new_run(instance, "monday")
    plan(instance, run, checks.SHARDS, "resolution_drift")
    waiting = [new_run(instance, f"d{k}") for k in range(300)]
    for one in waiting:
        plan(instance, one, checks.SHARDS, "resolution_drift")
    find(instance, run, resolution_drift=False)
    assert looker.look() == {"drift:monday"}


def test_a_run_that_was_planned_before_hundreds_that_have_ended(instance: dg.DagsterInstance) -> None:
    looker, run = Looker(instance), new_run(instance, "monday")
    plan(instance, run, checks.SHARDS, "resolution_drift")
    for k in range(250):
        other = new_run(instance, f"d{k}")
        plan(instance, other, checks.SHARDS, "resolution_drift")
        find(instance, other, resolution_drift=True)
    assert looker.look() == set()
    find(instance, run, resolution_drift=False)
    assert looker.look() == {"drift:monday"}


def test_more_results_than_one_page_at_the_first_look(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.check_results._EVENTS", 7)
    for k in range(20):
        find(instance, new_run(instance, f"d{k:02}"), resolution_drift=k % 2 == 0)
    assert Looker(instance).look() == {f"drift:d{k:02}" for k in range(1, 20, 2)}


def test_a_backfill_of_one_delivery_is_of_that_delivery(instance: dg.DagsterInstance) -> None:
    ends = {"dagster/asset_partition_range_start": "monday", "dagster/asset_partition_range_end": "monday"}
    run = create_run_for_test(instance, job_name="ingest", tags=ends)
    find(instance, run.run_id, resolution_drift=False)
    assert Looker(instance).look() == {"drift:monday"}


def test_a_refusal_holds_while_hundreds_of_runs_wait(instance: dg.DagsterInstance) -> None:
    run, gate = new_run(instance), EVALUATION[0]
    plan(instance, run, checks.REPORT, *EVALUATION)
    find(instance, run, checks.REPORT, **{name: name != gate for name in EVALUATION})
    for _ in range(30):
        plan(instance, new_run(instance), checks.REPORT, gate)
    verdicts = checks.report_verdicts(instance, soon())
    assert verdicts is not None
    assert [one.name for one in verdicts if not one.passed] == [gate]
    assert [one.name for one in verdicts] == list(EVALUATION)


def test_the_status_says_what_failed_while_the_next_run_waits(instance: dg.DagsterInstance) -> None:
    from orchestration.status import problems
    from orchestration.status_gathered import Made, _failed_checks

    run, gate = new_run(instance), EVALUATION[0]
    plan(instance, run, checks.REPORT, gate)
    made = {checks.REPORT: Made(0.0, "v", run=run)}
    assert _failed_checks(instance, made) == {}, "planned, and never done before"
    find(instance, run, checks.REPORT, **{gate: False})
    plan(instance, new_run(instance), checks.REPORT, gate)
    failed = _failed_checks(instance, made)
    assert failed == {checks.REPORT: {"ERROR": [gate]}}
    document = {"services": [], "problem": "", "run": None, "champion": None, "budget": None,
                "assets": [{"asset": checks.REPORT, "checks_failed": failed[checks.REPORT]["ERROR"]}]}  # fmt: skip
    assert problems(document) == [f"the check {gate} of {checks.REPORT} failed"]
