"""The doctor's last question: does the image of GPU jobs run? A Job of one small pod says so."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TypeVar

from kubernetes import client as k8s

from infra.errors import BackdropError
from infra.jobs.kubernetes.api import Api, Away, OverQuota, Refused
from infra.jobs.kubernetes.build import container_security, pod_security
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.jobs.kubernetes.state import UNPULLABLE
from orchestration.doctor import Finding, failed, ok

T = TypeVar("T")

_LOOK_S = 2.0


def image(api: Api, cluster: ClusterSettings) -> Finding:
    """Runs `true` in the image of GPU jobs, once, as a Job that is deleted afterwards."""
    job = probe(cluster, f"backdrop-doctor-{secrets.token_hex(4)}")
    name = job.metadata.name
    try:
        api.create_job(job)
    except (BackdropError, OverQuota, Away) as error:
        what = error.what if isinstance(error, BackdropError) else str(error)
        return failed("image", f"a Job could not be made to try it: {what}", "see the lines about rights, or the quota")
    until = api.clock.monotonic() + cluster.pull_patience_s
    try:
        while api.clock.monotonic() < until:
            try:
                finding = judged_pull(cluster.image, api.pods(name))
            except Away:  # it may be back before our patience ends
                finding = None
            except Refused as error:
                return failed("image", f"the Job that tries it cannot be watched: {error.what}", error.remedy)
            if finding is not None:
                return finding
            api.clock.sleep(_LOOK_S)
        said = _calm(lambda: [event.message for event in api.events(name)]) or ["nothing was said about it"]
        return failed("image", f"{cluster.image} did not run in {cluster.pull_patience_s} s: {said[-1]}", "see the Job")
    finally:
        _calm(lambda: api.delete_job(name, 0))


def probe(cluster: ClusterSettings, name: str) -> k8s.V1Job:
    """The Job of :func:`image`. It has not the label of our jobs: the reaper knows no run of it."""
    small = {"cpu": "100m", "memory": "128Mi"}
    container = k8s.V1Container(
        name="image",
        image=cluster.image,
        image_pull_policy="Always",
        command=["true"],
        resources=k8s.V1ResourceRequirements(requests=small, limits={"memory": small["memory"]}),
        security_context=container_security(),
    )
    pod = k8s.V1PodSpec(
        restart_policy="Never",
        service_account_name=cluster.service_account,
        automount_service_account_token=False,
        enable_service_links=False,
        image_pull_secrets=[k8s.V1LocalObjectReference(name=one) for one in cluster.image_pull_secrets] or None,
        security_context=pod_security(),
        containers=[container],
    )
    labels = {"app.kubernetes.io/name": "doctor", "app.kubernetes.io/part-of": "backdrop"}
    return k8s.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=k8s.V1ObjectMeta(name=name, namespace=cluster.namespace, labels=labels),
        spec=k8s.V1JobSpec(
            backoff_limit=0,
            ttl_seconds_after_finished=300,
            template=k8s.V1PodTemplateSpec(metadata=k8s.V1ObjectMeta(labels=labels), spec=pod),
        ),
    )


def judged_pull(image: str, pods: Sequence[k8s.V1Pod]) -> Finding | None:
    """What the probe's pods say about the image; None while they say nothing."""
    for pod in pods:
        if pod.status.phase == "Succeeded":
            return ok("image", f"{image} runs on {pod.spec.node_name}")
        for container in pod.status.container_statuses or []:
            waiting = container.state.waiting if container.state else None
            if waiting is not None and waiting.reason in UNPULLABLE:
                remedy = "check its name and image_pull_secrets in BACKDROP_CLUSTER, and the registry"
                return failed("image", f"{image}: {waiting.reason}: {waiting.message or ''}".rstrip(": "), remedy)
        if pod.status.phase == "Failed":
            return failed("image", f"{image} was pulled and does not run `true`", "build it from infra/docker")
    return None


def _calm(ask: Callable[[], T]) -> T | None:
    """For what helps and is not needed: the Job goes by itself, after a while."""
    try:
        return ask()
    except (Away, Refused):
        return None
