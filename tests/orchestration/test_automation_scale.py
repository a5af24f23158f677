"""Ten thousand deliveries: each schedule and sensor looks at them in seconds. `-s` shows the figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from sqlalchemy import insert, text

from assets.filtered_shards import RECIPE, config_of
from assets.line import Line
from assets.versions import version_from
from infra.catalog import Catalog
from infra.catalog.models import DatasetVersionRecord, DeliveryRecord, ModelRecord, SliceMember, SliceRecord
from infra.database import Postgres
from infra.database_url import LEGACY_DRIVER, with_driver
from infra.settings import REPOSITORY
from infra.sources import source_hash
from orchestration.automation import gather, triggers
from orchestration.automation.plan import MOST, plan_curation
from orchestration.definitions import defs

pytestmark = pytest.mark.integration
MANY, BAR_S = 10_000, 10.0


@pytest.fixture
def line(tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> Line:
    folder = tmp_path / "landing"
    for number in range(MANY):
        (folder / f"d{number:05}").mkdir(parents=True)
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    monkeypatch.setenv("BACKDROP_PRESET", "tiny")
    monkeypatch.setenv("BACKDROP_WATCH", str(folder))
    return Line()


@pytest.fixture
def instance(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Dagster's own storage on PostgreSQL, with the repository's dagster.yaml."""
    import psycopg

    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(b"CREATE DATABASE scale_dagster STRATEGY wal_log")
    monkeypatch.setenv("BACKDROP_DAGSTER_URL", with_driver(postgres.url("scale_dagster"), LEGACY_DRIVER))
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())))
    with dg.DagsterInstance.from_config(str(home)) as found:
        yield found
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(b"DROP DATABASE scale_dagster WITH (FORCE)")


def fill(catalog: Catalog, names: list[str]) -> None:
    """A slice of two images for each delivery; the champion's pretrained model saw the first half."""
    pieces = [{"id": f"{n:064x}", "prefix": f"filtered/{n}", "samples": 2, "split": "train", "bucket": ""}
              for n in range(len(names))]  # fmt: skip
    with catalog.engine.begin() as connection:
        connection.execute(
            insert(DeliveryRecord),
            [{"name": name, "uri": f"file:///{name}", "kind": "watched", "state": "filtered"} for name in names],
        )
        connection.execute(
            insert(SliceRecord),
            [{"delivery": name, "state": "current", **piece} for name, piece in zip(names, pieces, strict=True)],
        )
        connection.execute(
            insert(SliceMember),
            [
                {"delivery": name, "slice_id": piece["id"], "image_id": f"{2 * n + k:064x}", "shard": "s", "place": k}
                for n, (name, piece) in enumerate(zip(names, pieces, strict=True))
                for k in (0, 1)
            ],
        )
        seen = pieces[: len(pieces) // 2]
        connection.execute(insert(DatasetVersionRecord), [{"version": "old", "samples": 2 * len(seen), "slices": seen}])
        model = {"data_version": "v", "dataset_version": "old"}
        connection.execute(insert(ModelRecord), [{"id": "b" * 64, "asset": "pretrained_dit", **model}])
        connection.execute(text("ANALYZE"))


_COPIES = """
    WITH made AS (
        INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
        SELECT t.run_id, t.event, t.dagster_event_type, t.timestamp, t.step_key, t.asset_key, p.name
        FROM event_logs t, unnest(CAST(:names AS text[])) AS p(name) WHERE t.asset_key = :asset
        RETURNING id, partition
    )
    INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
    SELECT made.id, t.asset_key, t.key, v.value, t.event_timestamp
    FROM asset_event_tags t, made JOIN unnest(CAST(:names AS text[]), CAST(:versions AS text[])) AS v(name, value)
        ON v.name = made.partition
    WHERE t.asset_key = :asset AND t.key = 'dagster/data_version'
"""


def materialised(instance: dg.DagsterInstance, asset: str, versions: dict[str, str]) -> None:
    """Materialisations of these partitions with these data versions: one by Dagster, the others copies of its row."""
    event = dg.AssetMaterialization(asset, partition="first", tags={"dagster/data_version": "v"})
    instance.report_runless_asset_event(event)
    values = {"asset": f'["{asset}"]', "names": list(versions), "versions": list(versions.values())}
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        connection.execute(text(_COPIES), values)
        connection.execute(text("ANALYZE event_logs, asset_event_tags"))


_RUNS = """
    WITH made AS (
        INSERT INTO runs (run_id, pipeline_name, status, run_body)
        SELECT p.name, t.pipeline_name, t.status, replace(t.run_body, 'a delivery', p.name)
        FROM runs t, unnest(CAST(:names AS text[])) AS p(name) WHERE t.run_id = :run
        RETURNING run_id
    )
    INSERT INTO run_tags (run_id, key, value) SELECT run_id, 'dagster/partition', run_id FROM made
"""


def ran(instance: dg.DagsterInstance, names: list[str]) -> None:
    """A run of each of these deliveries: one by Dagster, the others copies of its rows."""
    run = instance.create_run_for_job(defs.resolve_job_def("ingest"), tags={"dagster/partition": "a delivery"})
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        connection.execute(text(_RUNS), {"run": run.run_id, "names": names})
        connection.execute(text("ANALYZE runs, run_tags"))


def test_each_look_takes_seconds(line: Line, instance: dg.DagsterInstance) -> None:
    from assets.deliveries import delivery_name
    from infra.catalog.ledger import DONE, Entry

    watch = str(line.settings.watch)
    names = sorted(delivery_name(f"{watch}/d{number:05}") for number in range(MANY))
    fill(line.catalog, names)
    line.catalog.add_entry(Entry(DONE, "backdrop-engine", "champion", None, "1", "b" * 64, "the line"))
    sources, config = source_hash(RECIPE), config_of(line, "")
    # All but ten were filtered as the filters are now.
    materialised(instance, "raw_images", dict.fromkeys(names, "r"))
    wants = {name: version_from(sources, {"raw_images": "r"}, config | {"delivery": name}) for name in names[10:]}
    materialised(instance, "filtered_shards", wants)
    took: dict[str, float] = {}

    def timed(name: str, look: Any) -> Any:
        began = time.perf_counter()
        found = look()
        took[name] = round(time.perf_counter() - began, 2)
        return found

    decision = timed(
        "nightly_curation", lambda: plan_curation(gather.deliveries(line, instance), gather.means(line, instance))
    )
    assert sorted(str(request.partition) for request in decision.requests) == names[:10]
    with dg.build_sensor_context(instance=instance, resources={"line": line}) as context:
        early = timed("early_retraining", lambda: triggers.early_retraining(context))
        assert "no delivery" not in str(early)
        again = timed("early_retraining, again", lambda: triggers.early_retraining(context))
        assert str(again) == str(early)
        watched = timed("watch_deliveries", lambda: triggers.watch_deliveries(context))
    assert not watched.run_requests
    # As if all had landed while the budget rested; of a third there was a run, which could not read them.
    with line.catalog.engine.begin() as connection:
        connection.execute(text("UPDATE deliveries SET state = 'open'"))
    ran(instance, names[: MANY // 3])
    with dg.build_sensor_context(instance=instance, resources={"line": line}) as context:
        watched = timed("watch_deliveries, all unread", lambda: triggers.watch_deliveries(context))
    assert [request.partition_key for request in watched.run_requests] == names[MANY // 3 :][:MOST]
    with dg.build_schedule_context(instance=instance, resources={"line": line}) as context:
        timed("weekly_retraining", lambda: triggers.weekly_retraining(context))
    growth = timed("growth", lambda: line.catalog.growth("old", [piece.slice for piece in line.catalog.pieces()]))
    assert (growth.seen, growth.new) == (MANY, MANY)
    print(f"\n{MANY:,} deliveries, seconds: {took}")
    assert max(took.values()) < BAR_S
