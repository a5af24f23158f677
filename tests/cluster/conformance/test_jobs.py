"""The job controller against Kubernetes' documented behaviour, seen through the official client."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from tests.cluster.clock import FakeClock
from tests.cluster.conformance.client import FAIL_ON_42, IGNORE_DISRUPTION, Api, job
from tests.cluster.server import Node, PodRun, TestCluster
from tests.cluster.server.indexes import read_indexes, write_indexes
from tests.cluster.server.resources import RESOURCES
from tests.cluster.server.schema import check_schema

pytestmark = pytest.mark.integration

INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"


def ended(cluster: TestCluster, api: Api, name: str = "train") -> dict[str, tuple[str, str, str]]:
    """The job's conditions, once it is complete or failed."""
    cluster.wait_until(lambda: {"Complete", "Failed"} & set(api.conditions(name)))
    return api.conditions(name)


class Held:
    """A command for pods that runs until the test releases an index, or the pod is told to stop."""

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.changed = threading.Condition()

    def __call__(self, pod: PodRun) -> int:
        with self.changed:
            while pod.index not in self.codes:
                if pod.terminating.is_set():
                    return 143
                self.changed.wait(0.01)
            return self.codes[pod.index]

    def release(self, index: int, code: int = 0) -> None:
        with self.changed:
            self.codes[index] = code
            self.changed.notify_all()


@pytest.fixture
def held(cluster: TestCluster) -> Held:
    cluster.command = Held()
    return cluster.command


def running(cluster: TestCluster, api: Api, count: int) -> list[Any]:
    def look() -> list[Any]:
        pods = [p for p in api.pods() if p.status.phase == "Running" and p.metadata.deletion_timestamp is None]
        return pods if len(pods) == count else []

    found: list[Any] = cluster.wait_until(look)
    return sorted(found, key=lambda p: int(p.metadata.labels[INDEX]))


def test_an_indexed_job_of_processes_completes(cluster: TestCluster, api: Api) -> None:
    api.create(job(command="echo index $JOB_COMPLETION_INDEX on $HOSTNAME", completions=3))
    conditions = ended(cluster, api)
    assert conditions["SuccessCriteriaMet"][:2] == conditions["Complete"][:2] == ("True", "CompletionsReached")
    status = api.job().status
    assert (status.completed_indexes, status.succeeded, status.active, status.terminating) == ("0-2", 3, None, 0)
    assert status.completion_time >= status.start_time
    pods = sorted(api.pods("job-name=train"), key=lambda p: p.metadata.name)
    assert [p.metadata.annotations[INDEX] for p in pods] == ["0", "1", "2"]
    assert [p.spec.hostname for p in pods] == ["train-0", "train-1", "train-2"]
    assert all(p.status.phase == "Succeeded" and not p.metadata.finalizers for p in pods)
    assert api.log(pods[1].metadata.name) == "index 1 on train-1\n"
    assert api.events("Completed") == ["Job completed"]
    assert len(api.events("SuccessfulCreate")) == 3


def test_a_fail_job_rule_fails_the_job_at_once(cluster: TestCluster, api: Api) -> None:
    command = "test $JOB_COMPLETION_INDEX = 0 && exit 42; exec sleep 600"
    api.create(job(command=command, completions=2, podFailurePolicy={"rules": [FAIL_ON_42]}))
    conditions = ended(cluster, api)
    pods = {p.metadata.annotations[INDEX]: p for p in api.pods()}
    message = (
        f"Container main for pod backdrop/{pods['0'].metadata.name} failed with exit code 42 "
        "matching FailJob rule at index 0"
    )
    assert conditions["FailureTarget"] == conditions["Failed"] == ("True", "PodFailurePolicy", message)
    assert api.job().status.failed == 2  # the other one was taken down with it
    assert "1" not in pods
    assert api.events("PodFailurePolicy") == [message]


def test_a_job_has_failed_only_when_its_last_pod_has_ended(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    cluster.command = lambda pod: 42 if pod.index == 0 else clock.sleep(10_000)  # one that does not hear
    api.create(job(completions=2, podFailurePolicy={"rules": [FAIL_ON_42]}))
    cluster.settle()
    assert set(api.conditions()) == {"FailureTarget"}
    assert (api.job().status.active, api.job().status.terminating) == (None, 1)
    clock.advance(30)
    assert set(api.conditions()) == {"FailureTarget", "Failed"}


def test_a_failure_is_replaced_after_a_growing_back_off(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    starts: list[float] = []

    def fail(pod: PodRun) -> int:
        starts.append(clock.monotonic())
        return 1

    cluster.command = fail
    api.create(job(backoffLimit=3))
    clock.advance(600)
    assert starts == [0, 10, 30, 70]
    assert ended(cluster, api)["Failed"] == (
        "True",
        "BackoffLimitExceeded",
        "Job has reached the specified backoff limit",
    )
    assert api.job().status.failed == 4


def test_a_disruption_is_replaced_and_not_counted(cluster: TestCluster, api: Api, held: Held, clock: FakeClock) -> None:
    api.create(job(completions=2, backoffLimit=0, podFailurePolicy={"rules": [FAIL_ON_42, IGNORE_DISRUPTION]}))
    first = running(cluster, api, 2)[0].metadata.name
    cluster.replace(first)
    cluster.wait_until(lambda: first not in {p.metadata.name for p in api.pods()})
    assert len(api.pods()) == 1
    clock.advance(10)  # an ignored failure, too, has its back-off
    second = running(cluster, api, 2)[0].metadata.name
    assert second != first
    assert second.startswith("train-0-")
    held.release(0)
    held.release(1)
    assert "Complete" in ended(cluster, api)
    assert api.job().status.failed is None


def test_a_terminating_pod_is_replaced_only_after_its_end(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    cluster.command = lambda pod: clock.sleep(10_000)  # it does not hear
    api.create(job(podReplacementPolicy="Failed", backoffLimit=5))
    pod = running(cluster, api, 1)[0].metadata.name
    cluster.replace(pod)
    clock.advance(29)
    assert [(p.metadata.name, p.metadata.deletion_grace_period_seconds) for p in api.pods()] == [(pod, 30)]
    assert (api.job().status.active, api.job().status.terminating) == (None, 1)
    clock.advance(1)
    clock.advance(10)
    assert running(cluster, api, 1)[0].metadata.name != pod
    assert api.job().status.failed == 1


def test_each_index_has_its_own_limit(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    tries: dict[int, int] = {}

    def run(pod: PodRun) -> int:
        tries[pod.index] = tries.get(pod.index, 0) + 1
        assert pod["metadata"]["annotations"][FAILURES] == str(tries[pod.index] - 1)
        return int(pod.index == 1 or (pod.index == 3 and tries[3] == 1))

    cluster.command = run
    api.create(job(completions=5, backoffLimitPerIndex=2))
    clock.advance(100)
    status = api.job().status
    assert tries == {0: 1, 1: 3, 2: 1, 3: 2, 4: 1}
    assert (status.completed_indexes, status.failed_indexes, status.succeeded, status.failed) == ("0,2-4", "1", 4, 4)
    assert ended(cluster, api)["Failed"] == ("True", "FailedIndexes", "Job has failed indexes")


def test_an_index_fails_by_rule_and_too_many_fail_the_job(cluster: TestCluster, api: Api, held: Held) -> None:
    rule = {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}
    api.create(job(completions=4, backoffLimitPerIndex=5, maxFailedIndexes=1, podFailurePolicy={"rules": [rule]}))
    running(cluster, api, 4)
    held.release(0, 42)
    cluster.wait_until(lambda: api.job().status.failed_indexes == "0")
    held.release(2, 42)
    conditions = ended(cluster, api)
    assert conditions["Failed"][1] == "MaxFailedIndexesExceeded"
    assert api.job().status.failed_indexes == "0,2"


def test_suspended_and_resumed(cluster: TestCluster, api: Api, held: Held, clock: FakeClock) -> None:
    api.create(job(completions=2, suspend=True, activeDeadlineSeconds=1000))
    clock.advance(3 * 86400)
    assert not api.pods()
    assert api.conditions() == {"Suspended": ("True", "JobSuspended", "Job suspended")}
    assert api.job().status.start_time is None
    for _ in range(2):
        api.batch.patch_namespaced_job("train", api.namespace, {"spec": {"suspend": False}})
        running(cluster, api, 2)
        assert api.conditions()["Suspended"] == ("False", "JobResumed", "Job resumed")
        assert api.job().status.start_time == clock.now()
        clock.advance(900)
        api.batch.patch_namespaced_job("train", api.namespace, {"spec": {"suspend": True}})
        cluster.wait_until(lambda: not api.pods())
        status = api.job().status
        assert (status.active, status.failed, status.start_time) == (None, None, None)
        clock.advance(86400)
    api.batch.patch_namespaced_job("train", api.namespace, {"spec": {"suspend": False}})
    held.release(0)
    held.release(1)
    assert "Complete" in ended(cluster, api)
    assert len(api.events("Resumed")) == 1  # the others are older than an hour
    assert not api.events("Suspended")


def test_a_deadline(cluster: TestCluster, api: Api, held: Held, clock: FakeClock) -> None:
    api.create(job(activeDeadlineSeconds=100))
    running(cluster, api, 1)
    clock.advance(99)
    assert not api.conditions()
    clock.advance(1)
    text = "Job was active longer than specified deadline"
    assert ended(cluster, api)["Failed"] == ("True", "DeadlineExceeded", text)


@pytest.mark.parametrize(("policy", "left"), [("Background", 0), ("Foreground", 0), ("Orphan", 2), (None, 2)])
def test_what_goes_with_a_job(cluster: TestCluster, api: Api, held: Held, policy: str | None, left: int) -> None:
    made = api.create(job(completions=2))
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": made.metadata.uid}
    service = {"metadata": {"name": "train", "ownerReferences": [owner]}, "spec": {"clusterIP": "None"}}
    api.core.create_namespaced_service(api.namespace, service)
    running(cluster, api, 2)
    api.batch.delete_namespaced_job("train", api.namespace, propagation_policy=policy)
    cluster.settle()
    cluster.wait_until(lambda: len(api.pods()) == left and not api.batch.list_namespaced_job(api.namespace).items)
    services = api.core.list_namespaced_service(api.namespace).items
    assert len(services) == bool(left)
    assert all(not o.metadata.owner_references for o in [*services, *api.pods()])


def test_a_deletion_of_another_one_by_that_name_is_refused(api: Api) -> None:
    api.create(job(suspend=True))
    body = {"preconditions": {"uid": "another"}, "propagationPolicy": "Background"}
    with pytest.raises(ApiException) as caught:
        api.batch.delete_namespaced_job("train", api.namespace, body=body)
    assert caught.value.status == 409


def test_a_finished_job_lives_for_its_time(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    api.create(job(command="true", ttlSecondsAfterFinished=3600))
    ended(cluster, api)
    clock.advance(3590)
    assert api.pods()
    clock.advance(20)
    assert not api.pods()
    with pytest.raises(ApiException):
        api.job()


def test_what_the_server_writes_obeys_the_schema_too(cluster: TestCluster, api: Api, held: Held) -> None:
    cluster.set_quota(pods=100)
    rules = {"rules": [FAIL_ON_42, IGNORE_DISRUPTION]}
    api.create(job(completions=3, backoffLimitPerIndex=1, podFailurePolicy=rules, ttlSecondsAfterFinished=60))
    api.core.create_namespaced_service(api.namespace, {"metadata": {"name": "train"}, "spec": {"clusterIP": "None"}})
    running(cluster, api, 3)
    held.release(0, 1)
    cluster.evict(api.pods()[1].metadata.name)
    held.release(2, 42)
    ended(cluster, api)
    cluster.settle()
    kinds = [r for r in RESOURCES.values() if list(cluster.store.all(r))]
    assert {"jobs", "pods", "events", "nodes", "services", "resourcequotas"} <= {r.plural for r in kinds}
    for resource in kinds:
        for data in cluster.store.all(resource):
            check_schema(resource, data, strict=True)


def test_two_thousand_indexes_of_which_one_in_a_hundred_fails_once(clock: FakeClock, tmp_path: Any) -> None:
    tries: dict[int, int] = {}

    def run(pod: PodRun) -> int:
        tries[pod.index] = tries.get(pod.index, 0) + 1
        return int(pod.index % 100 == 7 and tries[pod.index] == 1)

    with TestCluster(clock, [Node("node-a"), Node("node-b")], run) as cluster:
        api = Api(cluster.kubeconfig(tmp_path / "kubeconfig"), cluster.namespace)
        api.create(job(completions=2000, parallelism=200, backoffLimitPerIndex=3))
        cluster.settle(60)
        clock.advance(15)
        status = api.job().status
        assert (status.completed_indexes, status.succeeded, status.failed) == ("0-1999", 2000, 20)
        assert {i for i, n in tries.items() if n == 2} == set(range(7, 2000, 100))
        assert len(api.pods(limit=5)) == 5


def test_indexes_are_written_as_kubernetes_writes_them() -> None:
    for text in ("", "0", "0,1", "0-2", "0,2,4-7,9,10", "3-1999"):
        assert write_indexes(read_indexes(text)) == text
