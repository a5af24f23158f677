"""A delivery that has landed has its run in the end, whatever happened to the tick that found it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.deliveries import delivery_name
from assets.line import Line
from orchestration.automation import gather
from orchestration.automation.triggers import watch_deliveries
from orchestration.definitions import defs

pytestmark = pytest.mark.integration


@pytest.fixture
def names(tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two deliveries in the watched folder."""
    monkeypatch.setenv("BACKDROP_WATCH", str(tmp_path / "landing"))
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    folders = [tmp_path / "landing" / day for day in ("monday", "tuesday")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(folder.name.encode())
    return sorted(delivery_name(folder.as_uri()) for folder in folders)


def tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources={"line": Line()}) as context:
        result = watch_deliveries(context)
    assert isinstance(result, dg.SensorResult)
    return result


def asked(result: dg.SensorResult) -> list[str | None]:
    """The partitions of the runs; the run key of each is its delivery's name, so that Dagster makes one of it."""
    assert all(request.run_key == request.partition_key for request in result.run_requests or [])
    return [request.partition_key for request in result.run_requests or []]


def test_a_tick_that_dies_at_any_point_loses_no_delivery(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    instance = dg.DagsterInstance.ephemeral()
    cursor = tick(instance, None).cursor

    def fails(*_: object) -> None:
        raise ConnectionError("Dagster's database is away")

    with monkeypatch.context() as broken:
        broken.setattr(gather, "means", fails)
        with pytest.raises(ConnectionError):
            tick(instance, cursor)
    assert not Line().catalog.list_deliveries()

    with monkeypatch.context() as broken:
        broken.setattr(gather, "without_run", fails)
        with pytest.raises(ConnectionError):
            tick(instance, cursor)
    assert [row.name for row in Line().catalog.list_deliveries()] == names, "they were written down already"

    assert asked(tick(instance, cursor)) == names
    assert asked(tick(instance, cursor)) == names, "as long as Dagster has made no run of it"
    for name in names:
        instance.create_run_for_job(defs.resolve_job_def("ingest"), tags={"dagster/partition": name})
    assert asked(tick(instance, cursor)) == []


def test_what_landed_while_the_budget_rested_is_asked_for_once_it_goes_on(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = dg.DagsterInstance.ephemeral()
    cursor = tick(instance, None).cursor
    monkeypatch.setenv("BACKDROP_GPU_HOURS_PER_WEEK", "0")
    resting = tick(instance, cursor)
    assert asked(resting) == []
    assert "2 deliveries have landed, but paused by the budget" in str(resting.skip_reason)
    assert sorted(instance.get_dynamic_partitions("deliveries")) == names, "a person may start them"
    assert "2 deliveries have landed" in str(tick(instance, resting.cursor).skip_reason)

    monkeypatch.delenv("BACKDROP_GPU_HOURS_PER_WEEK")
    assert asked(tick(instance, resting.cursor)) == names


def test_what_others_began_is_left_to_them(names: list[str]) -> None:
    instance = dg.DagsterInstance.ephemeral()
    cursor = tick(instance, None).cursor
    assert asked(tick(instance, cursor)) == names
    backfill = {f"dagster/asset_partition_range_{end}": names[0] for end in ("start", "end")}
    instance.create_run_for_job(defs.resolve_job_def("ingest"), tags=backfill)
    assert asked(tick(instance, cursor)) == names[1:]
    Line().catalog.ingest(names[1], [])
    assert asked(tick(instance, cursor)) == []
    Line().catalog.add_delivery("by-hand", "file:///by-hand", "images")
    assert asked(tick(instance, cursor)) == [], "whoever handed it in starts it"
