"""Jobs, schedules and sensors: off by default, and the one that watches for deliveries."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.deliveries import delivery_name
from assets.line import Line
from infra.s3 import S3Store
from infra.uris import list_uri
from orchestration.automation.landing import listing_by_folder
from orchestration.automation.triggers import watch_deliveries
from orchestration.definitions import defs


def test_what_starts_something_is_off_by_default() -> None:
    """Every schedule and sensor but those that only tell, or only clear away."""
    found = defs.get_repository_def()
    every = {one.name: one.default_status.value for one in (*found.schedule_defs, *found.sensor_defs)}
    assert {name: status for name, status in every.items() if name not in ("alerts", "job_reaper")} == {
        "nightly_curation": "STOPPED",
        "weekly_retraining": "STOPPED",
        "watch_deliveries": "STOPPED",
        "early_retraining": "STOPPED",
        "renew_training_set": "STOPPED",
        "promote_when_approved": "STOPPED",
        "watch_champion": "STOPPED",
    }


def test_a_retraining_opens_no_delivery() -> None:
    job = defs.resolve_job_def("retrain")
    keys = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
    assert "training_set" in keys
    assert "promotion" in keys
    assert not keys & {"raw_images", "filtered_shards"}
    assert job.tags["backdrop.line"] == "retrain"


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
    assert instance.get_dynamic_partitions("deliveries") == [name]
    known = line.catalog.delivery(name)
    assert known is not None
    assert known.uri == f"{watched.as_uri()}/monday"

    instance.create_run_for_job(defs.resolve_job_def("ingest"), tags={"dagster/partition": name})
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
    assert listing_by_folder(tmp_path.as_uri(), {delivery_name(f"{tmp_path.as_uri()}/one")}) == {}, "it is known"


def test_folders_have_the_same_names_as_ever(tmp_path: Path) -> None:
    """A delivery's name is made of its folder's URI: another spelling would be another delivery."""
    (tmp_path / "très bien 100%").mkdir()
    (tmp_path / "très bien 100%" / "x.png").write_bytes(b"x")
    inside = next(iter(list_uri(tmp_path.as_uri())))
    assert list(listing_by_folder(tmp_path.as_uri())) == [inside.rpartition("/")[0]]


def test_a_bucket_is_listed_by_its_folders(s3_store: S3Store) -> None:
    for key in ("landing/one/a.jpg", "landing/one/b.jpg", "landing/two/a.jpg", "landing/loose.jpg"):
        s3_store.put(key, b"x")
    root = f"{s3_store.uri}/landing"
    assert list(listing_by_folder(root)) == [f"{root}/one", f"{root}/two"]
    assert list(listing_by_folder(root, {delivery_name(f"{root}/one")})) == [f"{root}/two"]
