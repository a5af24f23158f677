"""A run whose process was killed is ended by the next command; a living run, and one that starts, are left alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG

from assets.owner import PID, STARTED, alive, process_tags
from infra.jobs.folder import job_folder
from infra.jobs.handle import Handle, write_handle
from infra.jobs.process import ProcessId
from infra.settings import Settings
from orchestration.automation import gather
from orchestration.stale import SERVER, end_stale_runs

HOUR = 3600.0


@dg.op
def nothing() -> None:
    """A step that does nothing."""


@dg.job
def one_step() -> None:
    nothing()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state")


@pytest.fixture(scope="module")
def dead() -> dict[str, str]:
    """The tags of a process that was killed."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    tags = {PID: str(child.pid), STARTED: f"{psutil.Process(child.pid).create_time():.2f}"}
    assert alive(tags)
    child.kill()
    child.wait()
    return tags


def say(instance: dg.DagsterInstance, run: str, kind: dg.DagsterEventType, ago: float = 0.0, **event: Any) -> None:
    """An event of the run, so many seconds ago."""
    told = DagsterEvent(event_type_value=kind.value, job_name="one_step", **event)
    instance.report_dagster_event(told, run, timestamp=time.time() - ago)


def start(
    instance: dg.DagsterInstance,
    tags: dict[str, str],
    ago: float = 0.0,
    kind: dg.DagsterEventType = dg.DagsterEventType.RUN_START,
    **run: Any,
) -> str:
    made = instance.create_run_for_job(one_step, tags=tags, **run)
    say(instance, made.run_id, kind, ago)
    return made.run_id


def launched(instance: dg.DagsterInstance, tags: dict[str, str], ago: float, **run: Any) -> str:
    """As the daemon leaves it until the run's process speaks."""
    return start(instance, tags, ago, dg.DagsterEventType.RUN_STARTING, **run)


def worked_on(instance: dg.DagsterInstance, run: str, pid: int, ago: float) -> None:
    """What Dagster writes as the run's process begins."""
    data = EngineEventData.in_process(pid)
    say(instance, run, dg.DagsterEventType.ENGINE_EVENT, ago, event_specific_data=data)


def test_only_the_dead_are_ended(instance: dg.DagsterInstance, settings: Settings, dead: dict[str, str]) -> None:
    mine, theirs = start(instance, process_tags()), start(instance, dead)
    foreign = start(instance, {})
    assert end_stale_runs(instance, settings) == [theirs]
    statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses[theirs] == dg.DagsterRunStatus.FAILURE
    assert statuses[mine] == statuses[foreign] == dg.DagsterRunStatus.STARTED


def test_a_run_that_never_claimed_a_process_is_known_by_what_dagster_wrote_down(
    instance: dg.DagsterInstance, settings: Settings, dead: dict[str, str]
) -> None:
    """Such as a rollback from the page, or a training that was killed while it imported."""
    killed, lives, before = (start(instance, {}) for _ in range(3))
    worked_on(instance, killed, int(dead[PID]), 0)
    worked_on(instance, lives, os.getpid(), 0)
    # The machine was started again since, and the pid given to another process.
    worked_on(instance, before, os.getpid(), time.time() - psutil.Process().create_time() + HOUR)
    cancelled = start(instance, {})
    worked_on(instance, cancelled, int(dead[PID]), 0)
    say(instance, cancelled, dg.DagsterEventType.RUN_CANCELING)
    assert set(end_stale_runs(instance, settings)) == {killed, before, cancelled}
    assert end_stale_runs(instance, settings) == []


def test_a_launch_waits_for_its_server_as_long_as_that_lives(
    instance: dg.DagsterInstance, settings: Settings, tmp_path: Path
) -> None:
    assert SERVER == GRPC_INFO_TAG
    path = tmp_path / "server"
    tags = {SERVER: json.dumps({"host": "localhost", "socket": str(path)})}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        slow, just = launched(instance, tags, HOUR), launched(instance, {}, 0)
        nowhere = launched(instance, {}, HOUR)
        assert end_stale_runs(instance, settings) == [nowhere], "a slow import is no dead one"
    assert end_stale_runs(instance, settings) == [slow], "its server has ended, and left its socket"
    path.unlink()
    last = launched(instance, tags, HOUR)
    assert end_stale_runs(instance, settings) == [last]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = launched(instance, {SERVER: json.dumps({"host": "127.0.0.1", "port": listener.getsockname()[1]})}, HOUR)
        assert end_stale_runs(instance, settings) == []
    assert end_stale_runs(instance, settings) == [port]
    assert not instance.get_run_by_id(just).is_finished  # type: ignore[union-attr]


def test_a_repeated_run_does_not_answer_for_the_process_of_the_one_before(
    instance: dg.DagsterInstance, settings: Settings, dead: dict[str, str]
) -> None:
    """Dagster gives it the tags of its parent."""
    first = start(instance, dead)
    assert end_stale_runs(instance, settings) == [first]
    repeated = {"parent_run_id": first, "root_run_id": first}
    tags = dict(instance.get_run_by_id(first).tags)  # type: ignore[union-attr]
    instance.create_run_for_job(one_step, tags=tags, **repeated)
    launched(instance, tags, 0, **repeated)
    old = launched(instance, tags, HOUR, **repeated)
    assert end_stale_runs(instance, settings) == [old]


def test_on_a_cluster_a_pid_says_nothing(
    instance: dg.DagsterInstance, settings: Settings, dead: dict[str, str]
) -> None:
    start(instance, dead)
    launched(instance, {}, HOUR)
    assert end_stale_runs(instance, settings.model_copy(update={"launcher": "kubernetes"})) == []


def test_a_run_that_has_ended_while_it_was_looked_at_stays_as_it_ended(
    instance: dg.DagsterInstance, settings: Settings, dead: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(instance, dead)
    looked_up = instance.get_run_records()
    say(instance, run, dg.DagsterEventType.RUN_SUCCESS)
    monkeypatch.setattr(instance, "get_run_records", lambda *_: looked_up)
    assert end_stale_runs(instance, settings) == []
    assert instance.get_run_by_id(run).status == dg.DagsterRunStatus.SUCCESS  # type: ignore[union-attr]


# ── what it spent ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Line:
    """As far as the budget asks."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


def trained(instance: dg.DagsterInstance, tags: dict[str, str], ago: float) -> str:
    """A retraining that has begun its pretraining so long ago and was killed."""
    run = instance.create_run_for_job(one_step, tags=tags)
    for kind, key in ((dg.DagsterEventType.RUN_START, None), (dg.DagsterEventType.STEP_START, "pretrained_dit")):
        say(instance, run.run_id, kind, ago, step_key=key)
    return run.run_id


@pytest.fixture
def as_retraining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "BY_HAND", "one_step")
    monkeypatch.setattr(gather, "_models_of", lambda _: True)


@pytest.mark.usefixtures("as_retraining")
def test_a_machine_that_was_off_for_a_weekend_has_spent_what_it_ran(
    instance: dg.DagsterInstance, settings: Settings, dead: dict[str, str]
) -> None:
    run = trained(instance, dead, 63 * HOUR)
    worked_on(instance, run, int(dead[PID]), 62.5 * HOUR)
    # Its job wrote for two hours, the last time as it saved.
    folder = job_folder(settings.state, "pretrained_dit-0123")
    last = time.time() - 61 * HOUR
    for path in (folder.log, folder.save / "pretrain" / "step.pt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (last, last))
    killed = ProcessId(pid=int(dead[PID]), started=float(dead[STARTED]))
    words = dict.fromkeys(("key", "room", "verb", "identity", "launch", "store", "prefix", "created_at"), "x")
    write_handle(folder, Handle(**words, attempt=1, run_id=run, watcher=killed, process=killed))  # type: ignore[arg-type]
    os.utime(folder.handle, (last - HOUR, last - HOUR))

    assert end_stale_runs(instance, settings) == [run]
    (spent,) = gather._failed(Line(settings), instance, datetime.now(UTC))  # type: ignore[arg-type]
    assert spent.hours == pytest.approx(2, abs=0.01)
    assert spent.at.timestamp() == pytest.approx(last, abs=60), "it counts for the week in which it ran"


@pytest.mark.usefixtures("as_retraining")
def test_without_a_job_the_last_word_of_the_run_counts(
    instance: dg.DagsterInstance, settings: Settings, dead: dict[str, str]
) -> None:
    run = trained(instance, dead, 63 * HOUR)
    worked_on(instance, run, int(dead[PID]), 62 * HOUR)
    assert end_stale_runs(instance, settings) == [run]
    (spent,) = gather._failed(Line(settings), instance, datetime.now(UTC))  # type: ignore[arg-type]
    assert spent.hours == pytest.approx(1, abs=0.01)


def test_a_reused_pid_is_not_the_same_process() -> None:
    tags = process_tags()
    assert alive(tags)
    assert not alive({**tags, STARTED: "1.00"})
    assert not alive({})
