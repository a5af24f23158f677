"""KubernetesLauncher against an API server on a real socket, with pods that are processes."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from datetime import datetime
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG

from infra.jobs.events import Event, Metrics
from infra.jobs.handle import Job
from infra.jobs.outcome import JobFailed
from infra.jobs.spec import JobResult
from tests.cluster.server import PodRun, TestCluster
from tests.cluster.world import World, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def tally(world: World, **values: object):  # type: ignore[no-untyped-def]
    from fixture_room.specs import TallySpec

    return TallySpec(store=world.store.uri, output="made/tally", **values)


def created(cluster: TestCluster, kind: str = "jobs") -> int:
    return sum(one.method == "POST" and one.path.endswith(f"/{kind}") for one in cluster.requests)


def test_a_job_runs_in_a_pod_and_reports(cluster: TestCluster, world: World) -> None:
    heard: list[Event] = []
    result = world.launch(tally(world), "tally", on_event=heard.append)
    assert result.data == {"first": 0, "ranks": 1}
    assert [event.values["value"] for event in heard if isinstance(event, Metrics)] == [0, 1, 2]
    job = cluster.list("jobs", "batch")[0]
    assert job["status"]["succeeded"] == 1
    assert created(cluster) == 1
    logs = list(world.store.list("logs/made/"))
    assert len(logs) == 1
    assert world.observed()[-1]["state"] == "succeeded"
    # Asked for again after it was delivered it runs again, without the checkpoints of the first time.
    assert world.launch(tally(world), "tally").data["first"] == 0
    assert created(cluster) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_outlives_its_run_worker_and_is_adopted(cluster: TestCluster, world: World, number: int) -> None:
    spec = tally(world, steps=60, pause_s=0.1)
    worker = world.orchestrate(spec, "tally")
    wait_for(lambda: world.starts(spec), "the job's start")
    worker.kill(number)
    result = world.launch(spec, "tally")
    assert result.data["first"] == 0
    assert world.starts(spec) == ["0-from-0"]
    assert created(cluster) == 1


def test_a_job_that_ended_alone_is_still_collected(cluster: TestCluster, world: World) -> None:
    spec = tally(world, steps=20, pause_s=0.1)
    worker = world.orchestrate(spec, "tally")
    wait_for(lambda: world.starts(spec), "the job's start")
    assert world.launcher().elsewhere() == [job["metadata"]["name"] for job in cluster.list("jobs", "batch")]
    worker.kill()
    job, launcher = Job("made", "fixture_room", "tally", spec), world.launcher()
    assert not launcher.ended_unwatched(job)
    wait_for(lambda: launcher.ended_unwatched(job), "the job's end")
    assert launcher.elsewhere() == []
    heard: list[Event] = []
    world.launch(spec, "tally", on_event=heard.append)
    assert [event.step for event in heard if isinstance(event, Metrics)] == list(range(20))
    assert created(cluster) == 1
    assert not launcher.ended_unwatched(job)


def test_an_adopted_job_outlives_the_cancel_of_its_first_run(cluster: TestCluster, world: World) -> None:
    spec = tally(world, steps=100, pause_s=0.1)
    first = world.orchestrate(spec, "tally")
    wait_for(lambda: world.starts(spec), "the job's start")
    run = first.run()
    done: list[JobResult] = []
    second = threading.Thread(target=lambda: done.append(world.launch(spec, "tally")))
    second.start()
    label = "backdrop/run"
    wait_for(lambda: cluster.list("jobs", "batch")[0]["metadata"]["labels"][label] != run.run_id, "the adoption")
    world.instance.report_run_canceling(run)
    first.process.send_signal(signal.SIGTERM)
    first.process.wait(30)
    second.join(60)
    assert done[0].data["first"] == 0
    assert world.starts(spec) == ["0-from-0"]


def test_an_exit_without_a_result_is_a_failure(cluster: TestCluster, world: World) -> None:
    cluster.command = lambda pod: 0
    with pytest.raises(JobFailed, match="exited 0 without reporting a result") as failed:
        world.launch(tally(world), "tally")
    assert not failed.value.retryable
    # Nor is it taken for done by the next run.
    cluster.command = None
    assert world.launch(tally(world), "tally").data["ranks"] == 1


def test_wrong_configuration_is_not_tried_again(cluster: TestCluster, world: World) -> None:
    from fixture_room.specs import FailSpec

    spec = FailSpec(store=world.store.uri, output="made/failed", how="configuration")
    with pytest.raises(JobFailed, match="the learning rate is negative: -1") as failed:
        world.launch(spec, "fail")
    assert not failed.value.retryable
    assert "set it above 0" in failed.value.remedy
    assert len(cluster.list("pods")) == 1
    assert created(cluster) == 1


def test_a_users_cancel_takes_the_job_with_all_that_is_its_own(cluster: TestCluster, world: World) -> None:
    world.given = {"default": {**world.settings.default.model_dump(), "nodes": 2}}
    spec = tally(world, steps=600, pause_s=0.1, ranks=2)
    worker = world.orchestrate(spec, "tally")
    wait_for(lambda: len(world.starts(spec)) == 2, "both ranks' start")
    assert len(cluster.list("services")) == 1
    world.instance.report_run_canceling(worker.run())
    worker.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    wait_for(lambda: not (cluster.list("jobs", "batch") or cluster.list("pods") or cluster.list("services")), "the end")
    assert time.monotonic() - began < 10
    worker.process.wait(30)


def test_the_reaper_ends_what_a_killed_worker_could_not(cluster: TestCluster, world: World) -> None:
    from infra.jobs.kubernetes.reaper import orphans, reap

    spec = tally(world, steps=600, pause_s=0.1)
    worker = world.orchestrate(spec, "tally")
    wait_for(lambda: world.starts(spec), "the job's start")
    api, closed = world.launcher().api, []
    assert orphans(api.jobs(), world.instance, api.clock.now()) == []
    worker.kill()
    assert orphans(api.jobs(), world.instance, api.clock.now()) == []  # its run may be gone on with
    world.instance.report_run_canceled(worker.run())
    gone = reap(api, world.instance, closed.append)
    assert [(one.key, one.why) for one in gone] == [("made", "its run was cancelled")]
    assert closed == ["made"]
    wait_for(lambda: not (cluster.list("jobs", "batch") or cluster.list("pods")), "the end", 10)


def test_the_reaper_leaves_what_a_retry_will_adopt(cluster: TestCluster, world: World) -> None:
    from infra.jobs.kubernetes.reaper import PATIENCE, orphans

    spec = tally(world, steps=600, pause_s=0.1)
    worker = world.orchestrate(spec, "tally")
    wait_for(lambda: world.starts(spec), "the job's start")
    api = world.launcher().api
    worker.kill()
    run = worker.run()
    world.instance.report_run_failed(run)
    much_later = api.clock.now() + 2 * PATIENCE
    assert [one.run_id for one in orphans(api.jobs(), world.instance, much_later)] == [run.run_id]
    tags = {ROOT_RUN_ID_TAG: run.run_id, PARENT_RUN_ID_TAG: run.run_id}
    retry = dg.DagsterRun(
        run.job_name,
        status=dg.DagsterRunStatus.NOT_STARTED,
        tags=tags,
        root_run_id=run.run_id,
        parent_run_id=run.run_id,
    )
    world.instance.add_run(retry)
    assert orphans(api.jobs(), world.instance, much_later) == []
    api.delete_job(cluster.list("jobs", "batch")[0]["metadata"]["name"], 0)


def test_a_replaced_pod_says_nothing_twice(cluster: TestCluster, world: World) -> None:
    heard: list[Event] = []
    spec = tally(world, steps=40, pause_s=0.15)
    done: list[JobResult] = []
    thread = threading.Thread(target=lambda: done.append(world.launch(spec, "tally", on_event=heard.append)))
    thread.start()
    for count in (1, 2):
        wait_for(lambda count=count: len(world.starts(spec)) == count, "a start")
        time.sleep(1)
        cluster.replace(running(cluster))
    thread.join(120)
    steps = [int(event.values["value"]) for event in heard if isinstance(event, Metrics)]
    assert len(world.starts(spec)) == 3
    assert sorted(set(steps)) == list(range(40))
    assert len(steps) - len(set(steps)) <= 2  # a step whose checkpoint was not written yet is computed again
    assert done[0].data["first"] > 0
    assert created(cluster) == 1
    assert cluster.list("jobs", "batch")[0]["status"].get("failed", 0) == 0  # a disruption is no failure


def test_two_jobs_of_one_launcher_keep_their_own_results(cluster: TestCluster, world: World) -> None:
    launcher = world.launcher()
    first = world.launch(tally(world, steps=2), "tally", "first", launcher)
    second = world.launch(tally(world, steps=4), "tally", "second", launcher)
    assert (first.metadata["steps"], second.metadata["steps"]) == (2, 4)


def test_what_is_said_at_the_very_end_is_heard(cluster: TestCluster, world: World) -> None:
    """A thousand chunks lie in the store when the job ends."""
    from fixture_room.specs import CountSpec

    spec = CountSpec(store=world.store.uri, output="made/counted", steps=1000, chunk=40)
    heard: list[Event] = []

    def run(pod: PodRun) -> int:
        return talk(world, pod)

    cluster.command = run
    with pytest.raises(JobFailed, match="without reporting"):
        world.launch(spec, "count", on_event=heard.append)
    assert [event.step for event in heard if isinstance(event, Metrics)] == list(range(1000))


def talk(world: World, pod: PodRun) -> int:
    """Writes a thousand chunks at once, as a job does that could not reach the store for a while."""
    prefix = f"messages/made/{pod['metadata']['labels']['backdrop/launch']}/0/{time.time_ns():020d}-1"
    for k in range(1000):
        payload = {"kind": "metrics", "values": {"value": k}, "step": k}
        message = {"method": "report_custom_message", "params": {"payload": payload}, "n": k + 1}
        world.store.put(f"{prefix}/{k + 1:08d}.jsonl", json.dumps(message).encode() + b"\n")
    return 0


def test_all_ranks_restart_from_the_last_checkpoint_when_a_node_goes(cluster: TestCluster, world: World) -> None:
    world.given = {"default": {**world.settings.default.model_dump(), "nodes": 4, "gpus": 1, "cpu": "2"}}
    spec = tally(world, steps=60, pause_s=0.1, ranks=4)
    done: list[JobResult] = []
    thread = threading.Thread(target=lambda: done.append(world.launch(spec, "tally")))
    thread.start()
    wait_for(lambda: len(world.starts(spec)) == 4, "four ranks")
    wait_for(lambda: world.store.exists("made/tally/checkpoints/step"), "a checkpoint")
    time.sleep(2)
    cluster.replace(next(name for name in pods(cluster) if "-2-" in name), "TerminationByKubelet", "node shutdown")
    thread.join(150)
    first = done[0].data["first"]
    assert first > 0
    restarted = [start for start in world.starts(spec) if not start.endswith("from-0")]
    assert sorted(restarted) == [f"{rank}-from-{first}" for rank in range(4)]
    names = sorted(job["metadata"]["name"] for job in cluster.list("jobs", "batch"))
    assert names == [names[0], f"{names[0]}-r1"]
    cost = json.loads(world.store.get("made/tally/cost.json"))
    assert cost["gpu_seconds"] > cost["preempted_gpu_seconds"] > 0
    assert sum("restart" in str(one) or one["state"] == "failed" for one in world.observed()) >= 1


def test_a_rank_that_dies_takes_the_others_along_and_is_tried_again(cluster: TestCluster, world: World) -> None:
    given = {**world.settings.default.model_dump(), "nodes": 2, "retries": 1}
    world.given = {"default": given}
    spec = tally(world, steps=6, ranks=2, stops_at=3)
    result = world.launch(spec, "tally")
    assert result.data["first"] > 0
    assert created(cluster) == 2


def test_of_many_slices_exactly_the_failing_ones_are_tried_again(cluster: TestCluster, world: World) -> None:
    from fixture_room.specs import PartSpec

    tried: Counter[int] = Counter()

    def run(pod: PodRun) -> int:
        tried[pod.index] += 1
        return 1 if pod.index % 10 == 3 and tried[pod.index] == 1 else 0

    cluster.command = run
    world.given = {"default": {**world.settings.default.model_dump(), "gpus": 1, "cpu": "1"}}
    spec = PartSpec(store=world.store.uri, output="made/parts")
    assert world.launch(spec, "part", slices=40).metadata["slices"] == 40
    assert tried == Counter({k: 2 if k % 10 == 3 else 1 for k in range(40)})
    held = json.loads(world.store.get("made/parts/cost.json"))["gpu_seconds"]
    assert held == pytest.approx(sum(map(seconds_of, cluster.list("pods"))), abs=1.0)


def test_a_slice_that_is_wrong_says_so_and_spares_its_neighbours(cluster: TestCluster, world: World) -> None:
    from fixture_room.specs import PartSpec

    spec = PartSpec(store=world.store.uri, output="made/parts", wrong=(2,))
    with pytest.raises(JobFailed, match="part 2 is wrong") as failed:
        world.launch(spec, "part", slices=4)
    assert not failed.value.retryable
    assert [world.store.get(f"made/parts/parts/{k}/done") for k in range(4)] == [b"0", b"1", b"2", b"3"]
    assert len(cluster.list("pods")) == 4


def seconds_of(pod: Any) -> float:
    """How long a pod that has ended held its node."""
    (state,) = (container["state"]["terminated"] for container in pod["status"]["containerStatuses"])
    return (moment(state["finishedAt"]) - moment(pod["status"]["startTime"])).total_seconds()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def running(cluster: TestCluster) -> str:
    return next(
        pod["metadata"]["name"]
        for pod in cluster.list("pods")
        if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    )


def pods(cluster: TestCluster) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.list("pods")]
