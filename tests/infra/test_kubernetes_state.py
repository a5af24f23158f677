"""What the launcher asks of a cluster, what it makes of the answer, and what a job costs; no cluster needed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kubernetes import client as k8s

from infra.errors import BackdropError
from infra.jobs.kubernetes.build import Launch, build_job, build_service, job_name, label_value
from infra.jobs.kubernetes.pod import code_of, ranks_of
from infra.jobs.kubernetes.settings import ClusterSettings, Resources
from infra.jobs.kubernetes.state import Failure, Phase, reduce
from infra.jobs.kubernetes.usage import Usage
from infra.jobs.ranks import place
from infra.jobs.spec import JobResult

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = ClusterSettings(image="registry.example/backdrop@sha256:abc", queue=None, secrets=("backdrop-store",))
LAUNCH = Launch(
    key="pretrained_dit-0123",
    launch="abc-1",
    asset="pretrained_dit",
    partition="",
    run_id="6d1c",
    arguments=("training", "pretrain", "--spec", "s3://bucket/spec.json"),
    resources=Resources(nodes=4, gpus=8, gpu_product="NVIDIA-H100-80GB-HBM3", grace_s=120),
    log="s3://bucket/logs",
)


def plain(thing: Any) -> Any:
    return k8s.ApiClient().sanitize_for_serialization(thing)


@pytest.mark.parametrize("kind", ["nodes", "one", "slices"])
def test_what_is_asked_for_is_what_kubernetes_knows(kind: str) -> None:
    launch = {
        "nodes": LAUNCH,
        "one": replace(LAUNCH, resources=Resources(gpus=1)),
        "slices": replace(LAUNCH, resources=Resources(), slices=2000),
    }[kind]
    job = plain(build_job(launch, SETTINGS))
    kubernetes_validate.validate(job, "1.33", strict=True)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == {"nodes": 4, "one": 1, "slices": 2000}[kind]
    assert (spec.get("backoffLimit"), spec.get("backoffLimitPerIndex")) == {
        "nodes": (0, None),  # all ranks restart together
        "one": (3, None),
        "slices": (None, 3),
    }[kind]
    actions = [rule["action"] for rule in spec["podFailurePolicy"]["rules"]]
    assert actions == {"nodes": ["FailJob"] * 3, "one": ["FailJob", "Ignore", "Ignore"]}.get(
        kind, ["FailIndex", "Ignore", "Ignore"]
    )
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    container = pod["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["envFrom"] == [{"secretRef": {"name": "backdrop-store"}}]
    assert ("subdomain" in pod) == (kind == "nodes")
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert ("BACKDROP_JOB_SLICES" in variables) == (kind == "slices")
    if kind == "nodes":
        assert variables["BACKDROP_JOB_MASTER"] == f"{launch.name}-0.{launch.name}"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        made = k8s.V1Job(metadata=k8s.V1ObjectMeta(name=launch.name, uid="u-1"))
        service = plain(build_service(launch, SETTINGS, made))
        kubernetes_validate.validate(service, "1.33", strict=True)
        assert service["metadata"]["ownerReferences"][0]["uid"] == "u-1"


def test_a_queue_means_to_begin_suspended() -> None:
    queued = plain(build_job(LAUNCH, SETTINGS.model_copy(update={"queue": "gpus"})))
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert plain(build_job(LAUNCH, SETTINGS))["spec"]["suspend"] is False


def test_names_are_the_same_for_everybody_and_always_allowed() -> None:
    assert LAUNCH.name == job_name("pretrained_dit", "pretrained_dit-0123", "abc-1", 0)
    assert replace(LAUNCH, restart=2).name == f"{LAUNCH.name}-r2"
    assert replace(LAUNCH, launch="abc-2").name != LAUNCH.name
    long = job_name("Ä" * 80, "k", "l", 11)
    assert len(f"{long}-1999") <= 63
    assert label_value("été 2026/…") == "t--2026"
    assert label_value("x" * 80) == "x" * 63
    assert label_value("…") == ""


def condition(kind: str, reason: str = "", message: str = "") -> k8s.V1JobCondition:
    return k8s.V1JobCondition(type=kind, status="True", reason=reason, message=message)


def job_of(*conditions: k8s.V1JobCondition, suspend: bool = False, **status: Any) -> k8s.V1Job:
    return k8s.V1Job(
        metadata=k8s.V1ObjectMeta(name="j"),
        spec=k8s.V1JobSpec(suspend=suspend, template=k8s.V1PodTemplateSpec()),
        status=k8s.V1JobStatus(conditions=list(conditions), **status),
    )


def pod_of(
    phase: str = "Running", node: str | None = "node-a", waiting: tuple[str, str] | None = None, **more: Any
) -> k8s.V1Pod:
    container = k8s.V1ContainerStatus(name="job", image="", image_id="", ready=False, restart_count=0)
    if waiting is not None:
        container.state = k8s.V1ContainerState(
            waiting=k8s.V1ContainerStateWaiting(reason=waiting[0], message=waiting[1])
        )
    if "code" in more:
        container.state = k8s.V1ContainerState(
            terminated=k8s.V1ContainerStateTerminated(exit_code=more["code"], finished_at=more.get("finished"))
        )
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name=more.get("name", "j-0"), uid=more.get("uid", "u"), creation_timestamp=NOW),
        spec=k8s.V1PodSpec(node_name=node, containers=[]),
        status=k8s.V1PodStatus(
            phase=phase, container_statuses=[container], conditions=more.get("conditions", []), start_time=NOW
        ),
    )


def event_of(reason: str, message: str, about: str = "j") -> k8s.CoreV1Event:
    return k8s.CoreV1Event(
        metadata=k8s.V1ObjectMeta(name="e"),
        involved_object=k8s.V1ObjectReference(name=about),
        reason=reason,
        message=message,
        last_timestamp=NOW,
    )


def test_a_job_that_waits_is_never_one_that_failed() -> None:
    queued = reduce(job_of(suspend=True))
    assert (queued.phase, queued.ended) == (Phase.QUEUED, False)
    words = {"type": "QuotaReserved", "reason": "Pending", "message": "no quota left in cohort gpus"}
    assert reduce(job_of(suspend=True), workload={"status": {"conditions": [words]}}).reason.endswith("cohort gpus")
    unschedulable = pod_of(
        "Pending",
        None,
        conditions=[
            k8s.V1PodCondition(
                type="PodScheduled", status="False", reason="Unschedulable", message="0/3 nodes are available"
            )
        ],
    )
    state = reduce(job_of(), [unschedulable])
    assert (state.phase, state.reason) == (Phase.STARTING, "Unschedulable: 0/3 nodes are available")
    assert not state.hopeless
    quota = event_of("FailedCreate", 'Error creating: pods "j-0" is forbidden: exceeded quota: gpus')
    assert "exceeded quota" in reduce(job_of(), [], [quota]).reason
    assert not reduce(job_of(), [], [quota]).hopeless


def test_what_waiting_cannot_mend_is_hopeless() -> None:
    bad_name = pod_of("Pending", waiting=("InvalidImageName", "couldn't parse image"))
    assert reduce(job_of(), [bad_name]).hopeless
    refused = event_of("FailedCreate", 'admission webhook "policy" denied the request: no host path')
    assert reduce(job_of(), [], [refused]).hopeless
    insecure = event_of("FailedCreate", 'pods "j-0-x" is forbidden: violates PodSecurity "restricted:latest"')
    assert reduce(job_of(), [], [insecure]).hopeless
    pulling = pod_of("Pending", waiting=("ImagePullBackOff", "Back-off pulling image"))
    why = event_of("Failed", "Failed to pull image: not found", "j-0")
    state = reduce(job_of(), [pulling], [why])
    assert not state.hopeless
    assert state.stuck
    assert state.reason == "ImagePullBackOff: Back-off pulling image (Failed to pull image: not found)"


def test_how_a_job_ended() -> None:
    assert reduce(job_of(condition("Complete"))).phase == Phase.SUCCEEDED
    wrong = "Container job for pod b/j-0 failed with exit code 42 matching FailJob rule at index 0"
    disrupted = "Pod b/j-1 has condition DisruptionTarget matching FailJob rule at index 1"
    for reason, message, failure in [
        ("PodFailurePolicy", wrong, Failure.WRONG),
        ("PodFailurePolicy", disrupted, Failure.DISRUPTED),
        ("PodFailurePolicy", wrong.replace("42", "143"), Failure.DISRUPTED),
        ("BackoffLimitExceeded", "Job has reached the specified backoff limit", Failure.FAILED),
    ]:
        state = reduce(job_of(condition("Failed", reason, message)))
        assert (state.phase, state.failure) == (Phase.FAILED, failure)
        assert message in state.reason
    # The others crash in their collective, now and then before the one that is the reason is looked at.
    crashed = job_of(condition("Failed", "BackoffLimitExceeded", ""))
    gone = k8s.V1PodCondition(type="DisruptionTarget", status="True", reason="TerminationByKubelet", message="")
    crash, lost, wrong_one = pod_of("Failed", code=1), pod_of("Failed", conditions=[gone]), pod_of("Failed", code=42)
    assert reduce(crashed, [crash, lost]).failure == Failure.DISRUPTED
    assert reduce(crashed, [crash, pod_of("Failed", code=143)]).failure == Failure.DISRUPTED
    assert reduce(crashed, [crash, wrong_one, lost]).failure == Failure.WRONG
    slices = reduce(job_of(condition("Failed", "FailedIndexes", ""), failed_indexes="1,3-5", succeeded=7))
    assert (slices.succeeded, slices.failed_indexes) == (7, "1,3-5")


def test_a_job_runs_on_its_nodes() -> None:
    pods = [pod_of(node="b"), pod_of(node="a"), pod_of("Pending", None)]
    state = reduce(job_of(active=3), pods)
    assert (state.phase, state.nodes) == (Phase.RUNNING, ("a", "b"))
    # Of slices only those that wait are listed.
    assert reduce(job_of(active=9, ready=8), [pod_of("Pending", None)]).phase == Phase.RUNNING


def test_what_pods_held_is_paid_for_also_when_they_are_gone() -> None:
    gone = k8s.V1PodCondition(type="DisruptionTarget", status="True", reason="EvictionByEvictionAPI", message="drain")
    first = pod_of("Failed", code=143, finished=NOW + timedelta(hours=1), uid="1", conditions=[gone])
    usage = Usage(gpus=8).noted("j", [first], NOW + timedelta(hours=2))
    usage = usage.noted("j-r1", [pod_of(uid="2")], NOW + timedelta(minutes=30))
    assert usage.gpu_seconds == 8 * (3600 + 1800)
    assert usage.preempted_gpu_seconds == 8 * 3600
    taken = usage.noted("j-r1", [pod_of(uid="3")], NOW + timedelta(minutes=30))
    assert taken.preempted_gpu_seconds == 8 * (3600 + 1800)
    assert taken.gpu_seconds == 8 * (3600 + 1800 + 1800)
    assert usage.metadata(2.0) == {"gpu_seconds": 43200.0, "preempted_gpu_seconds": 28800.0, "gpu_cost": 24.0}
    assert "gpu_cost" not in usage.metadata(0.0)
    measured = JobResult(metadata={"first_joules": 2.5, "joules": 3.0, "joules_per_image": 4.0})
    assert usage.metadata(0.0, measured.joules)["joules"] == 5.5
    # A page of many slices says nothing about those of the other pages.
    page = Usage(gpus=1).noted("j", [pod_of(uid="4")], NOW, whole=False)
    assert page.noted("j", [], NOW, whole=False).preempted_gpu_seconds == 0
    assert Usage().metadata(2.0) == {}
    assert Usage.model_validate_json(usage.model_dump_json()) == usage


def test_the_ranks_of_a_node_know_their_place() -> None:
    environment = {
        "BACKDROP_JOB_NODES": "4",
        "BACKDROP_JOB_PROCESSES": "2",
        "BACKDROP_JOB_MASTER": "j-0.j",
    }
    places = [place(found) for node in range(4) for found in ranks_of(node, environment)]
    assert [one.rank for one in places] == list(range(8))
    assert {one.ranks for one in places} == {8}
    assert [(one.local_rank, one.local_ranks, one.node) for one in places[4:6]] == [(0, 2, 2), (1, 2, 2)]
    assert ranks_of(0, {"BACKDROP_JOB_NODES": "1", "BACKDROP_JOB_PROCESSES": "8"}) == [{}]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([143, 42], 42), ([143, 1], 1), ([-9, 143], 137), ([143, 143], 143), ([0, 143], 143)],
)
def test_a_pod_ends_with_what_its_ranks_mean(codes: list[int], expected: int) -> None:
    assert code_of(codes) == expected


def test_settings_name_the_key_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("image: a\nassets: {pretrained_dit: {gpu: 8}}\n")
    with pytest.raises(BackdropError, match=r"assets\.pretrained_dit\.gpu.*Did you mean 'gpus'"):
        ClusterSettings.load(path)
    path.write_text("image: a\nnamespaces: x\n")
    with pytest.raises(BackdropError, match="Did you mean 'namespace'"):
        ClusterSettings.load(path)
    path.write_text("image: a\nassets: {pretrained_dit: {gpus: 8, tolerations: [{key: gpu, operator: Exists}]}}\n")
    loaded = ClusterSettings.load(path)
    assert loaded.resources("pretrained_dit").gpus == 8
    assert loaded.resources("autoencoder") == Resources()
    with pytest.raises(BackdropError, match="there is no"):
        ClusterSettings.load(tmp_path / "none.yaml")
