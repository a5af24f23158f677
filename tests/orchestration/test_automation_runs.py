"""Backfills, queue and pool with Dagster's own daemon and real processes."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import PartitionBackfill
from rich.console import Console

from assets.deliveries import deliveries
from assets.line import Line
from assets.owner import process_tags
from assets.stage import latest_metadata
from infra.settings import REPOSITORY, Settings
from orchestration import stale
from orchestration.automation import gather
from orchestration.definitions import defs
from orchestration.stale import end_stale_runs, free_slots
from tests.assets.workshop import photograph

pytestmark = pytest.mark.integration

HOLDER = """
import sys, time
import dagster as dg
from assets.owner import process_tags

@dg.asset(pool="gpu")
def heavy():
    print("holding", flush=True)
    time.sleep(600)

with dg.DagsterInstance.get() as instance:
    dg.materialize([heavy], instance=instance, tags=process_tags())
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Real services; DAGSTER_HOME is the state folder with the repository's dagster.yaml."""
    from infra.database import remove_postgres
    from orchestration.services import services

    state = tmp_path_factory.mktemp("runs") / "state"
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("BACKDROP_")]:
        del os.environ[name]
    os.environ |= {"BACKDROP_STATE": str(state), "BACKDROP_PRESET": "tiny", "PYTHONPATH": str(REPOSITORY)}
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        with services(Settings.load(), Console(file=io.StringIO())) as environment:
            os.environ.update(environment)
            with dg.DagsterInstance.get() as found:
                yield found
    finally:
        remove_postgres(state)
        os.environ.clear()
        os.environ.update(before)


def wait_for(what: Callable[[], bool], seconds: float, name: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"{name} did not come about in {seconds:.0f} s"
        time.sleep(0.5)


def test_a_backfill_makes_one_run_of_each_delivery_and_they_queue(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale, "_PATIENCE_S", 1.0)
    line, names = Line(), ["april", "may"]
    for k, name in enumerate(names):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.jpg").write_bytes(photograph(10 * k + number))
        line.catalog.add_delivery(name, folder.as_uri(), "pictures")
    instance.add_dynamic_partitions(str(deliveries.name), names)
    graph = defs.resolve_asset_graph()
    backfill = PartitionBackfill.from_asset_partitions(
        asset_graph=graph,
        backfill_id="months",
        tags={},
        backfill_timestamp=time.time(),
        asset_selection=[dg.AssetKey("raw_images"), dg.AssetKey("filtered_shards")],
        partition_names=names,
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    log = (tmp_path / "daemon.log").open("wb")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "dagster._daemon", "run", "-m", "orchestration.definitions"],
        cwd=os.environ["BACKDROP_STATE"],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    ours = dg.RunsFilter(tags={"dagster/backfill": "months"})

    def done() -> bool:
        assert not end_stale_runs(instance, Settings.load()), "they wait, start or work"
        runs = instance.get_runs(ours)
        return len(runs) == len(names) and all(run.is_finished for run in runs)

    try:
        wait_for(done, 240, "the backfill")
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(30)
    records = instance.get_run_records(ours)
    runs = [record.dagster_run for record in records]
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert sorted(gather.partition_of(run.tags) for run in runs) == names
    assert not any(batch.is_due for batch in gather.deliveries(line, instance).batches if batch.name in names)
    spans = sorted((float(one.start_time or 0), float(one.end_time or 0)) for one in records)
    for (began, ended), (next_began, _) in itertools.pairwise(spans):
        assert 0 < began < ended <= next_began, "dagster.yaml lets one run go at a time"
    assert {row.name: row.state for row in line.catalog.list_deliveries()} == dict.fromkeys(names, "filtered")
    for name in names:
        _is_seen_in_mlflow(line, instance, name)


def _is_seen_in_mlflow(line: Line, instance: dg.DagsterInstance, delivery: str) -> None:
    from mlflow import MlflowClient

    said = latest_metadata(instance, "filtered_shards", delivery)
    assert said is not None
    client = MlflowClient(str(line.settings.mlflow_uri))
    run = client.get_run(str(said["MLflow run"]).rpartition("/")[2])
    assert run.data.metrics["images_kept"] == said["images_kept"]
    assert run.data.params["delivery"] == delivery
    assert "small/funnel.png" in [one.path for one in client.list_artifacts(run.info.run_id, "small")]
    assert run.info.run_id in str(said["Funnel"])
    pages = [one.path for one in client.list_artifacts(run.info.run_id) if one.path.endswith(".html")]
    assert not pages, "they name files and quote captions: MLflow would never forget these"


def test_a_killed_run_leaves_the_pool_to_the_next(instance: dg.DagsterInstance) -> None:
    @dg.asset(pool="gpu")
    def light() -> None:
        """A stage that takes no time."""

    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"holding\n"
    storage = instance.event_log_storage
    assert len(storage.get_concurrency_run_ids()) == 1
    free_slots(instance)
    assert len(storage.get_concurrency_run_ids()) == 1, "it is at work"
    holder.kill()
    holder.wait()
    assert len(end_stale_runs(instance, Settings.load())) == 1
    assert not storage.get_concurrency_run_ids()
    assert dg.materialize([light], instance=instance, tags=process_tags()).success


def test_gpu_assets_are_in_the_pool() -> None:
    keys = defs.resolve_asset_graph().get_all_asset_keys()
    pools = {key.to_user_string(): defs.resolve_assets_def(key).op.pool for key in keys}
    assert {name for name, pool in pools.items() if pool == "gpu"} == set(gather.GPU)
