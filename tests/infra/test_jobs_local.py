"""LocalLauncher with real processes, signals and Dagster sessions."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

import dagster as dg
import psutil
import pytest

from infra.errors import BackdropError
from infra.jobs.events import Event, Log, Metrics, Picture, Progress
from infra.jobs.folder import job_folder
from infra.jobs.handle import Handle, Job, end_stale, live_jobs, read_handle
from infra.jobs.local import JobFailed, LocalLauncher
from infra.jobs.spec import JobResult, JobSpec
from infra.jobs.warm import WarmInterpreter
from infra.object_store import DirectoryStore, ObjectStore

FIXTURE = Path(__file__).parent / "jobs_fixture"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["infra.jobs.local"])
pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def _room_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FIXTURE))
    monkeypatch.setenv("PYTHONPATH", str(FIXTURE))


@pytest.fixture(params=["spawned", "forked"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A state folder; no job of the test outlives it. Jobs are spawned, or forked from a warm interpreter."""
    folder = tmp_path / request.param
    folder.mkdir()
    yield folder
    for handle in live_jobs(folder):
        psutil.Process(handle.find_process().pid).kill()  # type: ignore[union-attr]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return DirectoryStore(tmp_path / "store")


def count_spec(store: ObjectStore, **values: object) -> JobSpec:
    from fixture_room.specs import CountSpec

    return CountSpec(store=store.uri, output="made/counted", **values)


def fail_spec(store: ObjectStore, how: str) -> JobSpec:
    from fixture_room.specs import FailSpec

    return FailSpec(store=store.uri, output="made/failed", how=how)


def launch(
    state: Path,
    spec: JobSpec,
    verb: str = "count",
    key: str = "counted",
    instance: dg.DagsterInstance | None = None,
    on_event: Callable[[Event], None] | None = None,
    code_version: str = "",
    recorded: bool = True,
) -> JobResult:
    """One materialisation of an asset that runs the job; the job's own error is what is raised."""
    results: list[JobResult] = []

    @dg.asset(name=key)
    def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with warm_for(state) as warm:
            launcher = LocalLauncher(state, spec.store, grace_s=5, poll_s=0.05, warm=warm)
            results.append(
                launcher.run(
                    context=context,
                    room="fixture_room",
                    verb=verb,
                    spec=spec,
                    key=key,
                    on_event=on_event,
                    code_version=code_version,
                )
            )
        if not recorded:
            raise RuntimeError("the asset fails after its job")
        return dg.MaterializeResult(metadata=results[0].metadata)

    dg.materialize([made], instance=instance or dg.DagsterInstance.ephemeral(), raise_on_error=recorded)
    return results[0]


def warm_for(state: Path) -> AbstractContextManager[WarmInterpreter | None]:
    context: AbstractContextManager[WarmInterpreter | None] = import_module("orchestrate").warm_for(state)
    return context


def orchestrate(state: Path, spec: JobSpec) -> BaseProcess:
    """The same in another process, which can be killed. The fork server imports Dagster once for all of them."""
    process = PROCESSES.Process(target=import_module("orchestrate").main, args=(state, spec.model_dump_json()))
    process.start()
    return process


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def handle_of(state: Path, key: str = "counted") -> Handle:
    handle = read_handle(job_folder(state, key))
    assert handle is not None
    return handle


def starts(store: ObjectStore) -> list[str]:
    return list(store.list("made/counted/starts/"))


def has_started(store: ObjectStore) -> bool:
    return bool(starts(store))


def test_a_job_reports_while_it_works_and_its_result_at_the_end(state: Path, store: ObjectStore) -> None:
    events: list[Event] = []
    result = launch(state, count_spec(store, steps=4, pause_s=0.2), on_event=events.append)
    assert result.metadata == {"steps": 4}
    assert json.loads(store.get(result.files["numbers"])) == [0, 1, 2, 3]
    assert store.exists(result.pictures["End"])
    assert result.checks[0].passed
    metrics = [event for event in events if isinstance(event, Metrics)]
    assert [(event.step, event.values["value"]) for event in metrics] == [(s, 10.0 * s) for s in range(4)]
    assert [event for event in events if isinstance(event, Progress)][-1] == Progress("counting", 4, 4, "steps")
    assert [(event.name, event.shows) for event in events if isinstance(event, Picture)] == [("the end", ("a", "b"))]
    assert result.shows == {result.pictures["End"]: ["a", "b"]}
    assert Log("info", "step 3 line 0") in events
    folder = job_folder(state, "counted")
    tmp = store.get("made/counted/tmp").decode()
    assert Path(os.path.realpath(tmp)) == Path(os.path.realpath(folder.path / "tmp")) or not Path(tmp).exists()
    assert not (folder.path / "tmp").exists()


def test_two_assets_through_one_launcher_in_one_process(state: Path, store: ObjectStore) -> None:
    from fixture_room.specs import CountSpec

    def asset_named(key: str, steps: int) -> dg.AssetsDefinition:
        @dg.asset(name=key)
        def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            spec = CountSpec(store=store.uri, output=f"made/{key}", steps=steps)
            result = launchers[0].run(context=context, room="fixture_room", verb="count", spec=spec, key=key)
            return dg.MaterializeResult(metadata=result.metadata)

        return made

    instance = dg.DagsterInstance.ephemeral()
    with warm_for(state) as warm:
        launchers = [LocalLauncher(state, store.uri, poll_s=0.05, warm=warm)]
        done = dg.materialize([asset_named("one", 1), asset_named("two", 2)], instance=instance)
    steps = {
        event.materialization.asset_key.to_user_string(): event.materialization.metadata["steps"].value
        for event in done.get_asset_materialization_events()
    }
    assert steps == {"one": 1, "two": 2}
    logged = [entry.user_message for entry in instance.all_logs(done.run_id)]
    assert sum(message == "step 0 line 0" for message in logged) == 2


def test_killed_orchestrator_adopts_the_running_job_and_hears_everything_once(state: Path, store: ObjectStore) -> None:
    spec = count_spec(store, steps=8, pause_s=0.4)
    orchestrator = orchestrate(state, spec)
    wait_for(lambda: has_started(store), "the job")
    launch_id = handle_of(state).launch
    wait_for(lambda: store.exists(f"messages/counted/{launch_id}.read.json"), "the first messages")
    orchestrator.kill()
    orchestrator.join()
    assert [handle.key for handle in live_jobs(state)] == ["counted"]

    events: list[Event] = []
    result = launch(state, spec, on_event=events.append)
    assert len(starts(store)) == 1
    assert handle_of(state).launch == launch_id
    assert result.data["first"] == 0
    metrics = [event for event in events if isinstance(event, Metrics)]
    assert [event.step for event in metrics] == list(range(8))
    assert metrics[0].replayed
    assert not metrics[-1].replayed
    lines = [event.message for event in events if isinstance(event, Log) and event.message.startswith("step")]
    assert lines == [f"step {step} line 0" for step in range(8)]


def test_a_job_that_finished_unwatched_is_not_run_again(state: Path, store: ObjectStore) -> None:
    spec = count_spec(store, steps=2, pause_s=0.5)
    orchestrator = orchestrate(state, spec)
    wait_for(lambda: has_started(store), "the job")
    orchestrator.kill()
    orchestrator.join()
    wait_for(lambda: not live_jobs(state), "the job's end")
    assert launch(state, spec).metadata == {"steps": 2}
    assert len(starts(store)) == 1


def test_a_result_that_was_recorded_is_made_anew_when_asked_for_again(state: Path, store: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            launch(state, count_spec(store), instance=instance)
    assert len(starts(store)) == 2


def test_a_result_that_the_asset_failed_to_record_is_taken_again(state: Path, store: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        launch(state, count_spec(store), instance=instance, recorded=False)
        launch(state, count_spec(store), instance=instance)
    assert len(starts(store)) == 1


def test_another_spec_or_newer_code_replaces_the_running_job(state: Path, store: ObjectStore) -> None:
    orchestrator = orchestrate(state, count_spec(store, steps=100, pause_s=0.2))
    wait_for(lambda: has_started(store), "the job")
    with pytest.raises(BackdropError, match=str(orchestrator.pid)):
        launch(state, count_spec(store, steps=1))
    orchestrator.kill()
    orchestrator.join()
    replaced = handle_of(state).process
    assert replaced is not None
    assert launch(state, count_spec(store, steps=1)).data["first"] == 0
    assert not replaced.alive
    launch(state, count_spec(store, steps=1), code_version="newer")
    assert len(starts(store)) == 3


def test_a_job_started_but_not_yet_written_down_is_found(state: Path, store: ObjectStore) -> None:
    spec = count_spec(store, steps=4, pause_s=0.3)
    orchestrator = orchestrate(state, spec)
    wait_for(lambda: has_started(store), "the job")
    orchestrator.kill()
    orchestrator.join()
    folder = job_folder(state, "counted")
    folder.handle.write_text(handle_of(state).model_copy(update={"process": None}).model_dump_json())
    launch(state, spec)
    assert len(starts(store)) == 1


def test_an_interrupt_lets_the_job_save_and_a_new_run_resumes(state: Path, store: ObjectStore) -> None:
    spec = count_spec(store, steps=100, pause_s=0.1)
    orchestrator = orchestrate(state, spec)
    wait_for(lambda: has_started(store), "the job")
    time.sleep(0.3)  # into its steps
    assert orchestrator.pid is not None
    os.kill(orchestrator.pid, signal.SIGINT)
    orchestrator.join(timeout=40)
    assert live_jobs(state) == []
    folder = job_folder(state, "counted")
    saved = int((folder.save / "step.txt").read_text())
    assert saved < 100
    exit = folder.read_exit(handle_of(state).launch)
    assert exit is not None
    assert exit.code == 143
    (folder.save / "step.txt").write_text("99")
    assert launch(state, spec).data["first"] == 99
    assert handle_of(state).attempt == 2


def test_a_killed_job_is_a_retryable_failure(state: Path, store: ObjectStore) -> None:
    with pytest.raises(JobFailed, match="was killed by SIGKILL") as failed:
        launch(state, fail_spec(store, "kill"), "fail", "failed")
    assert failed.value.retryable
    assert failed.value.job_exit_code == -9
    assert "about to end by kill" in failed.value.log_tail


@pytest.mark.parametrize("how", ["silent", "changed result"])
def test_exit_0_without_the_reported_result_has_failed(state: Path, store: ObjectStore, how: str) -> None:
    with pytest.raises(JobFailed, match="exited 0 without reporting a result") as failed:
        launch(state, fail_spec(store, how), "fail", "failed")
    assert not failed.value.retryable


def test_a_configuration_error_is_told_in_its_own_words(state: Path, store: ObjectStore) -> None:
    with pytest.raises(JobFailed, match="the learning rate is negative: -1") as failed:
        launch(state, fail_spec(store, "configuration"), "fail", "failed")
    assert not failed.value.retryable
    assert failed.value.job_exit_code == 42
    assert "set it above 0" in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_other_errors_and_full_disks(state: Path, store: ObjectStore) -> None:
    with pytest.raises(JobFailed, match="ValueError: surprise") as failed:
        launch(state, fail_spec(store, "exception"), "fail", "failed")
    assert failed.value.retryable
    assert "Traceback" in failed.value.log_tail
    with pytest.raises(JobFailed, match=r"disk full: .*/checkpoints/a") as failed:
        launch(state, fail_spec(store, "disk"), "fail", "failed")
    assert not failed.value.retryable


@pytest.mark.parametrize("how", ["forgotten worker", "forgotten fork"])
def test_workers_that_a_job_forgot_are_ended(state: Path, store: ObjectStore, how: str) -> None:
    result = launch(state, fail_spec(store, how), "fail", "failed")
    assert not psutil.pid_exists(result.data["worker"]) or (
        psutil.Process(result.data["worker"]).status() == psutil.STATUS_ZOMBIE
    )


def test_a_job_that_hangs_after_it_has_reported_is_done(state: Path, store: ObjectStore) -> None:
    began = time.monotonic()
    launch(state, fail_spec(store, "hangs at exit"), "fail", "failed")
    assert time.monotonic() - began < 60


def test_jobs_that_nobody_watches_can_be_ended(state: Path, store: ObjectStore) -> None:
    orchestrator = orchestrate(state, count_spec(store, steps=100, pause_s=0.2))
    wait_for(lambda: has_started(store), "the job")
    assert end_stale(state) == []
    orchestrator.kill()
    orchestrator.join()
    assert [handle.key for handle in end_stale(state, grace_s=20)] == ["counted"]
    assert live_jobs(state) == []
    assert (job_folder(state, "counted").save / "step.txt").exists()


def test_where_the_warm_interpreter_is_gone_jobs_are_spawned(tmp_path: Path, store: ObjectStore) -> None:
    state = tmp_path / "forked"
    state.mkdir()
    with warm_for(state) as warm:
        assert warm is not None
        assert warm.pid is not None
        os.kill(warm.pid, signal.SIGKILL)

        @dg.asset
        def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            launcher = LocalLauncher(state, store.uri, poll_s=0.05, warm=warm)
            spec = count_spec(store)
            result = launcher.run(context=context, room="fixture_room", verb="count", spec=spec, key="counted")
            return dg.MaterializeResult(metadata=result.metadata)

        assert dg.materialize([counted], instance=dg.DagsterInstance.ephemeral()).success
    assert len(starts(store)) == 1


def test_a_job_may_compute_in_several_processes(state: Path, store: ObjectStore) -> None:
    from fixture_room.specs import TeamSpec

    result = launch(state, TeamSpec(store=store.uri, output="made/together", ranks=3), verb="team", key="together")
    assert (result.data["rank"], result.data["ranks"]) == (0, 3)
    assert not any(psutil.pid_exists(pid) for pid in result.data["pids"][1:])


def test_a_job_that_ended_alone_is_still_to_be_collected(state: Path, store: ObjectStore) -> None:
    spec = count_spec(store, steps=10, pause_s=0.1)
    process = orchestrate(state, spec)
    wait_for(lambda: bool(starts(store)), "the job's start")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    job, launcher = Job("counted", "fixture_room", "count", spec), LocalLauncher(state, store.uri)
    assert not launcher.ended_unwatched(job)
    wait_for(lambda: launcher.ended_unwatched(job), "the job's end")
    assert not launcher.ended_unwatched(Job("counted", "fixture_room", "count", spec, "other code"))
    heard: list[Event] = []
    launch(state, spec, on_event=heard.append)
    assert [event.step for event in heard if isinstance(event, Metrics)] == list(range(10))
    assert len(starts(store)) == 1
    assert not launcher.ended_unwatched(job)
