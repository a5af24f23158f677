"""What a job may have to wait for, over days of a clock that the tests hold; and what it does not wait for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.jobs.kubernetes.state import Phase
from infra.jobs.outcome import JobFailed
from infra.jobs.spec import JobResult, JobSpec
from tests.cluster.clock import FakeClock
from tests.cluster.server import Node, PodRun, TestCluster
from tests.cluster.world import World, report, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cluster(clock: FakeClock) -> Iterator[TestCluster]:
    with TestCluster(clock, [Node("node-a", gpus=8), Node("node-b", gpus=8)], queues=["gpus"]) as running:
        yield running


@pytest.fixture
def world(cluster: TestCluster, clock: FakeClock, tmp_path: Path) -> World:
    world = World(tmp_path, cluster.kubeconfig(tmp_path / "kubeconfig"), clock=clock)
    cluster.command = lambda pod: report(world.store, pod)
    return world


class Launched:
    """A launch in a thread of its own."""

    def __init__(self, world: World, **more: Any) -> None:
        self.results: list[JobResult] = []
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(world, more), daemon=True)
        self._thread.start()

    def _run(self, world: World, more: dict[str, Any]) -> None:
        try:
            self.results.append(world.launch(JobSpec(store=world.store.uri, output="made/it"), "count", **more))
        except BaseException as error:
            self.errors.append(error)

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def outcome(self) -> JobResult:
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.errors:
            raise self.errors[0]
        return self.results[0]


def job(cluster: TestCluster) -> str:
    return str(wait_for(lambda: cluster.list("jobs", "batch"), "the Job", 20)[0]["metadata"]["name"])


def until(clock: FakeClock, world: World, words: str, seconds: float = 60) -> str:
    """The first state of the job with these words; it has to be named within a minute."""
    for _ in range(int(seconds)):
        clock.advance(1)
        found = [f"{one['state']}: {one.get('why', '')}" for one in world.observed()]
        if any(words in one for one in found):
            return found[-1]
    raise AssertionError(f"not within {seconds} s: {words}; {world.observed()}")


def test_three_days_in_the_queue_are_no_failure(cluster: TestCluster, world: World, clock: FakeClock) -> None:
    world.given = {"queue": "gpus"}
    ended = threading.Event()

    def run(pod: PodRun) -> int:
        return report(world.store, pod) if ended.is_set() else pod.terminating.wait(100) and 143

    cluster.command = run
    launched = Launched(world)
    name = job(cluster)
    assert "unused quota" in until(clock, world, "queued")
    for _ in range(2):
        clock.advance(DAY)
        cluster.admit(name)
        until(clock, world, "running")
        cluster.preempt(name)
        until(clock, world, "Preempted")
    clock.advance(DAY)
    ended.set()
    cluster.admit(name)
    clock.advance(60)
    launched.outcome()
    assert len(cluster.list("jobs", "batch")) == 1
    assert Counter(one["state"] for one in world.observed())["failed"] == 0


def test_the_place_in_the_queue_is_told(cluster: TestCluster, world: World, clock: FakeClock) -> None:
    world.given = {"queue": "gpus"}
    first = Launched(world, key="first")
    job(cluster)
    clock.advance(5)
    second = Launched(world, key="second")
    wait_for(lambda: len(cluster.list("jobs", "batch")) == 2, "both")
    clock.advance(30)
    assert world.observed("second")[-1]["place"] == 1
    for one in cluster.list("jobs", "batch"):
        cluster.admit(one["metadata"]["name"])
    clock.advance(120)
    first.outcome(), second.outcome()


def test_no_room_is_waited_for(cluster: TestCluster, world: World, clock: FakeClock) -> None:
    for node in ("node-a", "node-b"):
        cluster.lose_node(node, gone=True)
    launched = Launched(world)
    job(cluster)
    assert "Unschedulable" in until(clock, world, "Unschedulable")
    clock.advance(3 * 3600)
    assert not launched.over
    cluster.restore_node("node-a")
    clock.advance(300)
    launched.outcome()


def test_a_full_quota_is_waited_for(cluster: TestCluster, world: World, clock: FakeClock) -> None:
    cluster.set_quota(pods=0)
    launched = Launched(world)
    job(cluster)
    until(clock, world, "exceeded quota")
    clock.advance(3600)
    assert not launched.over
    cluster.set_quota()
    clock.advance(900)
    launched.outcome()


def test_an_image_that_cannot_be_pulled_is_waited_for_a_while(
    cluster: TestCluster, world: World, clock: FakeClock
) -> None:
    cluster.unpullable.add(world.settings.image)
    launched = Launched(world)
    job(cluster)
    said = until(clock, world, "Pull")
    assert world.settings.image in said
    assert not launched.over
    clock.advance(world.settings.pull_patience_s + 60)
    with pytest.raises(JobFailed, match="Pull") as failed:
        launched.outcome()
    assert not failed.value.retryable
    assert cluster.list("jobs", "batch") == []


def test_an_image_that_comes_in_time_is_run(cluster: TestCluster, world: World, clock: FakeClock) -> None:
    cluster.unpullable.add(world.settings.image)
    launched = Launched(world)
    job(cluster)
    until(clock, world, "Pull")
    cluster.unpullable.clear()
    clock.advance(400)
    launched.outcome()


def test_a_pod_that_is_evicted_before_it_starts_is_replaced(
    cluster: TestCluster, world: World, clock: FakeClock
) -> None:
    cluster.unpullable.add(world.settings.image)
    launched = Launched(world)
    job(cluster)
    until(clock, world, "Pull")
    cluster.unpullable.clear()
    cluster.evict(cluster.list("pods")[0]["metadata"]["name"])
    clock.advance(300)
    launched.outcome()


@pytest.mark.parametrize("kind", ["Job", "Pod"])
def test_what_admission_refuses_fails_with_its_words(
    cluster: TestCluster, world: World, clock: FakeClock, kind: str
) -> None:
    cluster.refuse(lambda thing: "images must be signed" if thing["kind"] == kind else None)
    launched = Launched(world)
    for _ in range(60):
        clock.advance(1)
        if launched.over:
            break
    with pytest.raises(Exception, match="images must be signed"):
        launched.outcome()
    clock.advance(60)
    assert cluster.list("jobs", "batch") == []


def test_two_thousand_slices(cluster: TestCluster, world: World, clock: FakeClock) -> None:
    """One in a hundred fails once, and only those are tried again; few requests, whatever their number."""
    tried: Counter[int] = Counter()

    def run(pod: PodRun) -> int:
        tried[pod.index] += 1
        return 1 if pod.index % 100 == 7 and tried[pod.index] == 1 else 0

    cluster.command = run
    world.given = {"default": {**world.settings.default.model_dump(), "cpu": "1m", "memory": "1Mi"}}
    launched = Launched(world, slices=2000)
    job(cluster)
    began, before = clock.monotonic(), len(cluster.requests)
    while not launched.over:
        clock.advance(5)
    assert launched.outcome().metadata["slices"] == 2000
    assert tried == Counter({k: 2 if k % 100 == 7 else 1 for k in range(2000)})
    ours = [one for one in cluster.requests[before:] if one.agent == "backdrop"]
    assert len(ours) / (clock.monotonic() - began) < 5
    assert world.observed()[-1]["state"] == Phase.SUCCEEDED
