"""Scheduler, kubelets, quotas and Kueue against what they do in a cluster, seen through the official client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from tests.cluster.clock import FakeClock
from tests.cluster.conformance.client import IGNORE_DISRUPTION, Api, job, refusal
from tests.cluster.server import PodRun, TestCluster

pytestmark = pytest.mark.integration

IGNORING: dict[str, Any] = {"podFailurePolicy": {"rules": [IGNORE_DISRUPTION]}}
QUEUED = {"kueue.x-k8s.io/queue-name": "gpus"}
WORKLOADS = ("kueue.x-k8s.io", "v1beta1", "backdrop", "workloads")


def hang(pod: PodRun) -> int:
    """Until SIGTERM, which it obeys."""
    pod.terminating.wait(60)
    return 143


def only(api: Api) -> Any:
    (pod,) = api.pods()
    return pod


def waiting(api: Api) -> tuple[str, str]:
    """Reason and message of the only pod's container, which has not started."""
    state = only(api).status.container_statuses[0].state.waiting
    return state.reason, state.message


def pod_conditions(pod: Any) -> dict[str, tuple[str, str | None, str | None]]:
    return {c.type: (c.status, c.reason, c.message) for c in pod.status.conditions}


# ---- scheduling
def test_gpus_are_counted_and_a_pod_without_a_place_says_why(cluster: TestCluster, api: Api) -> None:
    cluster.command = hang
    api.create(job(completions=3, gpus=8))
    cluster.settle()
    homes = {p.spec.node_name: p.status.phase for p in api.pods()}
    assert homes == {"node-a": "Running", "node-b": "Running", None: "Pending"}
    homeless = next(p for p in api.pods() if p.spec.node_name is None)
    text = (
        "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available: "
        "2 No preemption victims found for incoming pod."
    )
    assert pod_conditions(homeless)["PodScheduled"] == ("False", "Unschedulable", text)
    assert api.events("FailedScheduling") == [text]
    cluster.evict(next(p.metadata.name for p in api.pods() if p.spec.node_name == "node-b"))
    cluster.wait_until(lambda: api.core.read_namespaced_pod(homeless.metadata.name, "backdrop").spec.node_name)


def test_selectors_and_taints(cluster: TestCluster, api: Api) -> None:
    taint = {"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}
    api.core.patch_node("node-a", taint)
    api.create(job(command="sleep 60", pod={"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}))
    cluster.settle()
    assert only(api).spec.node_name == "node-b"
    api.create(job("elsewhere", pod={"nodeSelector": {"nvidia.com/gpu.product": "none"}}))
    cluster.settle()
    why = api.events("FailedScheduling")[0]
    assert "1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint {gpu: yes}" in why


# ---- what keeps a pod from starting
def test_an_image_that_cannot_be_pulled(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    cluster.unpullable.add("backdrop:1")
    api.create(job())
    cluster.settle()
    assert waiting(api)[0] == "ErrImagePull"
    clock.advance(3)
    reason, message = waiting(api)
    assert reason == "ImagePullBackOff"
    assert message.startswith('Back-off pulling image "backdrop:1": ErrImagePull: failed to pull and unpack image')
    assert any(m.startswith('Failed to pull image "backdrop:1"') for m in api.events("Failed"))
    assert only(api).status.phase == "Pending"
    cluster.unpullable.clear()
    clock.advance(10)
    cluster.wait_until(lambda: only(api).status.phase == "Succeeded")


def test_an_image_takes_its_time(clock: FakeClock, tmp_path: Path) -> None:
    with TestCluster(clock, command=lambda pod: 0, pull_seconds=90) as cluster:
        api = Api(cluster.kubeconfig(tmp_path / "kubeconfig"), cluster.namespace)
        api.create(job())
        clock.advance(80)
        assert waiting(api) == ("ContainerCreating", None)
        assert api.events("Pulling") == ['Pulling image "backdrop:1"']
        clock.advance(10)
        assert only(api).status.phase == "Succeeded"


def test_a_missing_secret_and_a_missing_account(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    container: dict[str, Any] = {"name": "main", "image": "a:1", "command": ["sh", "-c", "echo $USER_$PREFIX_KEY"]}
    container |= {"envFrom": [{"prefix": "PREFIX_", "secretRef": {"name": "keys"}}]}
    api.create(job(pod={"containers": [container]}))
    cluster.settle()
    assert waiting(api) == ("CreateContainerConfigError", 'secret "keys" not found')
    api.core.create_namespaced_secret("backdrop", {"metadata": {"name": "keys"}, "stringData": {"KEY": "value"}})
    clock.advance(10)
    cluster.wait_until(lambda: only(api).status.phase == "Succeeded")
    assert api.log(only(api).metadata.name) == "value\n"
    api.create(job("mounts", pod={"volumes": [{"name": "certificates", "secret": {"secretName": "none"}}]}))
    cluster.settle()
    text = 'MountVolume.SetUp failed for volume "certificates" : secret "none" not found'
    assert api.events("FailedMount") == [text]
    api.create(job("other", pod={"serviceAccountName": "trainer"}))
    cluster.settle()
    assert 'error looking up service account backdrop/trainer: serviceaccount "trainer" not found' in str(
        api.events("FailedCreate")
    )


def test_a_quota_that_is_spent(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    cluster.set_quota(gpus=8)
    cluster.command = lambda pod: 0
    api.create(job(completions=2, gpus=8, parallelism=2))
    cluster.settle()
    (message,) = api.events("FailedCreate")
    assert message.startswith('Error creating: pods "train-1-')
    assert message.endswith(
        "is forbidden: exceeded quota: quota, requested: requests.nvidia.com/gpu=8, "
        "used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8"
    )
    clock.advance(5)  # the first has ended since
    assert "Complete" in api.conditions()
    assert api.core.read_namespaced_resource_quota("quota", "backdrop").status.used == {"requests.nvidia.com/gpu": "0"}


def test_a_webhook_that_refuses(cluster: TestCluster, api: Api) -> None:
    cluster.refuse(lambda data: "no GPUs on Sundays" if data["kind"] == "Job" else None)
    with pytest.raises(ApiException) as caught:
        api.create(job())
    assert refusal(caught.value) == (
        403,
        "Forbidden",
        'admission webhook "validate.policy.example.com" denied the request: no GPUs on Sundays',
    )


# ---- running
def test_what_a_container_finds_around_it(cluster: TestCluster, api: Api) -> None:
    fields = {"NAME": "metadata.name", "UID": "metadata.uid", "IP": "status.podIP", "NODE": "spec.nodeName"}
    env: list[dict[str, Any]] = [{"name": n, "valueFrom": {"fieldRef": {"fieldPath": f}}} for n, f in fields.items()]
    env += [{"name": "GREETING", "value": "I am $(NAME)"}]
    container = {"name": "main", "image": "a:1", "env": env, "command": ["sh", "-c"]}
    container |= {"args": ["echo $GREETING $UID_OF $IP $NODE $JOB_COMPLETION_INDEX; pwd; exit 3"]}
    api.create(job(pod={"containers": [container]}, backoffLimit=0))
    cluster.wait_until(lambda: "Failed" in api.conditions())
    pod = only(api)
    words = api.log(pod.metadata.name).split()
    assert words == ["I", "am", pod.metadata.name, pod.status.pod_ip, "node-a", "0", str(Path.cwd())]
    ended = pod.status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason, pod.status.phase) == (3, "Error", "Failed")
    assert api.log(pod.metadata.name, tail_lines=1) == f"{Path.cwd()}\n"


def test_a_command_that_is_not_there(cluster: TestCluster, api: Api) -> None:
    container = {"name": "main", "image": "a:1", "command": ["/no/such/program"]}
    api.create(job(pod={"containers": [container]}, backoffLimit=0))
    cluster.wait_until(lambda: "Failed" in api.conditions())
    ended = only(api).status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (128, "StartError")


def test_sigterm_then_sigkill_after_the_grace(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    command = "trap 'echo asked' TERM; echo ready; while true; do sleep 0.02; done"
    api.create(job(command=command, pod={"terminationGracePeriodSeconds": 5}, podReplacementPolicy="Failed"))
    cluster.wait_until(lambda: (pods := api.pods()) and pods[0].status.phase == "Running")
    name = only(api).metadata.name
    cluster.wait_until(lambda: api.log(name) == "ready\n")
    api.core.delete_namespaced_pod(name, "backdrop")
    cluster.wait_until(lambda: "asked" in api.log(name))
    assert only(api).metadata.deletion_timestamp > clock.now()
    clock.advance(5)
    cluster.wait_until(lambda: api.job().status.failed == 1)


# ---- disruptions
def test_an_eviction_by_the_node_leaves_the_pod_failed(cluster: TestCluster, api: Api) -> None:
    api.create(job(command="trap 'exit 7' TERM; while true; do sleep 0.02; done", **IGNORING))
    cluster.wait_until(lambda: (pods := api.pods()) and pods[0].status.phase == "Running")
    cluster.evict(only(api).metadata.name)
    cluster.wait_until(lambda: only(api).status.phase == "Failed")
    status = only(api).status
    assert (status.reason, status.message) == ("Evicted", "The node was low on resource: memory. ")
    assert pod_conditions(only(api))["DisruptionTarget"][:2] == ("True", "TerminationByKubelet")
    assert api.job().status.failed is None


def test_an_eviction_before_the_start_has_no_container_statuses(cluster: TestCluster, api: Api) -> None:
    api.create(job(gpus=16, backoffLimit=0))
    cluster.settle()
    cluster.evict(only(api).metadata.name)
    cluster.settle()
    assert only(api).status.container_statuses is None
    assert only(api).status.reason == "Evicted"
    assert api.conditions()["Failed"][1] == "BackoffLimitExceeded"


def test_an_eviction_through_the_api(cluster: TestCluster, api: Api) -> None:
    cluster.command = hang
    api.create(job(**IGNORING))
    cluster.settle()
    name = only(api).metadata.name
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    api.core.create_namespaced_pod_eviction(name, "backdrop", eviction)
    cluster.wait_until(lambda: not api.pods())
    assert api.job().status.failed is None


def test_a_lost_node(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    cluster.command = hang
    api.create(job(completions=2, gpus=8, **IGNORING))
    cluster.settle()
    cluster.lose_node("node-b")
    clock.advance(39)
    assert {p.status.phase for p in api.pods()} == {"Running"}
    clock.advance(1)
    ready = next(c for c in api.core.read_node("node-b").status.conditions if c.type == "Ready")
    assert (ready.status, ready.reason) == ("Unknown", "NodeStatusUnknown")
    clock.advance(301)
    lost = next(p for p in api.pods() if p.spec.node_name == "node-b")
    assert lost.metadata.deletion_timestamp is not None
    assert pod_conditions(lost)["DisruptionTarget"][1] == "DeletionByTaintManager"
    clock.advance(3600)  # nobody can say that its processes are gone: it is not replaced
    assert (api.job().status.active, api.job().status.terminating) == (1, 1)
    cluster.restore_node("node-b")
    clock.advance(20)
    assert api.job().status.active == 2
    assert api.job().status.failed is None


def test_a_node_that_its_cloud_removed(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    cluster.command = hang
    api.create(job(completions=2, gpus=8, **IGNORING))
    cluster.settle()
    cluster.lose_node("node-b", gone=True)
    clock.advance(20)
    assert sorted(str(p.spec.node_name) for p in api.pods()) == ["None", "node-a"]
    assert (api.job().status.failed, api.job().status.terminating) == (None, 0)


# ---- Kueue
def test_a_queued_job_is_admitted_and_preempted(cluster: TestCluster, api: Api, clock: FakeClock) -> None:
    cluster.create("localqueues", {"metadata": {"name": "gpus"}, "spec": {"clusterQueue": "gpus"}}, "kueue.x-k8s.io")
    cluster.command = hang
    for name in ("first", "train"):
        assert api.create(job(name, labels=QUEUED)).spec.suspend
        clock.advance(5)

    def workload() -> dict[str, Any]:
        items = api.custom.list_namespaced_custom_object(*WORKLOADS)["items"]
        return next(w for w in items if w["metadata"]["ownerReferences"][0]["name"] == "train")

    def said() -> dict[str, tuple[str, str]]:
        return {c["type"]: (c["status"], c["reason"]) for c in workload()["status"]["conditions"]}

    assert said() == {"QuotaReserved": ("False", "Pending")}
    pending = api.custom.api_client.call_api(
        "/apis/visibility.kueue.x-k8s.io/v1beta1/namespaces/backdrop/localqueues/gpus/pendingworkloads",
        "GET",
        response_types_map={200: "object"},
        auth_settings=["BearerToken"],
    )[0]["items"]
    assert [p["positionInLocalQueue"] for p in pending] == [0, 1]
    assert pending[1]["metadata"]["name"] == workload()["metadata"]["name"]
    for _ in range(2):
        cluster.admit("train")
        cluster.settle()
        assert said()["Admitted"] == ("True", "Admitted")
        assert only(api).status.phase == "Running"
        cluster.preempt("train")
        cluster.wait_until(lambda: not api.pods())
        cluster.settle()
        assert said()["Evicted"] == ("True", "Preempted")
        assert (said()["QuotaReserved"][0], said()["Requeued"][0]) == ("False", "True")
        assert api.conditions()["Suspended"][0] == "True"
    assert api.job().status.failed is None
