"""The nightly schedule and the delivery sensor: off by default, and right when someone turns them on."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.deliveries import delivery_name
from assets.line import Line
from orchestration.automation import listing_by_folder, nightly_retraining, watch_deliveries
from orchestration.definitions import defs


def test_both_are_off_by_default() -> None:
    assert nightly_retraining.default_status == dg.DefaultScheduleStatus.STOPPED
    assert watch_deliveries.default_status == dg.DefaultSensorStatus.STOPPED


def test_the_schedule_retrains_the_line_but_opens_no_delivery() -> None:
    job = defs.resolve_job_def("retrain")
    keys = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert "training_set" in keys
    assert "promotion" in keys
    assert not keys & {"raw_images", "filtered_shards"}
    context = dg.build_schedule_context()
    request = nightly_retraining.evaluate_tick(context)
    assert len(request.run_requests or []) == 1


@pytest.fixture
def watched(tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "landing"
    folder.mkdir()
    monkeypatch.setenv("BACKDROP_WATCH", str(folder))
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    return folder


@pytest.mark.integration
def test_the_sensor_opens_a_partition_once_a_delivery_stands_still(watched: Path) -> None:
    instance = dg.DagsterInstance.ephemeral()
    line = Line()

    def tick(cursor: str | None) -> dg.SensorResult:
        with dg.build_sensor_context(instance=instance, cursor=cursor, resources={"line": line}) as context:
            result = watch_deliveries(context)
        assert isinstance(result, dg.SensorResult)
        return result

    (watched / "monday").mkdir()
    (watched / "monday" / "a.jpg").write_bytes(b"one")
    first = tick(None)
    assert not first.run_requests, "a delivery may still be landing when it is first seen"

    (watched / "monday" / "b.jpg").write_bytes(b"two")
    second = tick(first.cursor)
    assert not second.run_requests, "it grew since the last tick"

    third = tick(second.cursor)
    name = delivery_name(f"{watched.as_uri()}/monday")
    assert [request.partition_key for request in third.run_requests or []] == [name]
    assert third.dynamic_partitions_requests
    known = line.catalog.delivery(name)
    assert known is not None
    assert known.uri == f"{watched.as_uri()}/monday"

    assert not tick(third.cursor).run_requests, "a known delivery is not opened twice"


@pytest.mark.integration
def test_the_sensor_says_what_is_missing(catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKDROP_WATCH", raising=False)
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    with dg.build_sensor_context(resources={"line": Line()}) as context:
        skipped = watch_deliveries(context)
    assert isinstance(skipped, dg.SkipReason)
    assert "BACKDROP_WATCH" in str(skipped.skip_message)


def test_listing_changes_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.png").write_bytes(b"x")
    (tmp_path / "loose.png").write_bytes(b"x")
    before = listing_by_folder(tmp_path.as_uri())
    assert list(before) == [f"{tmp_path.as_uri()}/one"], "a loose file is no delivery"
    (tmp_path / "one" / "y.png").write_bytes(b"y")
    assert listing_by_folder(tmp_path.as_uri()) != before
