"""What the server fills in: the defaults of batch/v1 Job and v1 Pod and Service, and a Job's own labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.cluster.server.objects import Object
from tests.cluster.server.resources import JOBS, PODS, SERVICES, Resource

NO_LIMIT = 2**31 - 1
TRACKING_FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


def fill_defaults(resource: Resource, data: Object) -> None:
    """Fills in place what the client left out; `data` is the caller's own."""
    defaults = _DEFAULTS.get(resource)
    if defaults is not None:
        defaults(data)


def first_status(resource: Resource, data: Object) -> Object | None:
    """The status that a new object of this kind has; None: its kind has none, or a client may give it."""
    if resource == PODS:
        return {"phase": "Pending", "qosClass": _quality(data["spec"])}
    return {JOBS: {}, SERVICES: {"loadBalancer": {}}}.get(resource)


def fill_pod_spec(spec: Object) -> None:
    """The defaults of a pod's spec, in a Pod or in a template."""
    _fill(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
    )
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        _fill_container(container)
    for volume in spec.get("volumes", []):
        _fill_volume(volume)


def generate_job_labels(job: Object) -> None:
    """The selector and the labels of the pods, which the server derives from the new job's uid."""
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    template = job["spec"]["template"]
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    if job["spec"].get("manualSelector"):
        return
    for key, value in (("controller-uid", uid), ("job-name", name)):
        labels[key] = value
        labels[f"batch.kubernetes.io/{key}"] = value
    selector = job["spec"].setdefault("selector", {})
    selector.setdefault("matchLabels", {})["batch.kubernetes.io/controller-uid"] = uid


def _job(job: Object) -> None:
    spec = job["spec"]
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    per_index = "backoffLimitPerIndex" in spec
    _fill(
        spec,
        parallelism=1,
        backoffLimit=NO_LIMIT if per_index else 6,
        completionMode="NonIndexed",
        suspend=False,
        manualSelector=False,
        podReplacementPolicy="Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed",
    )
    if not spec["manualSelector"]:
        del spec["manualSelector"]
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        for pattern in rule.get("onPodConditions", []):
            pattern.setdefault("status", "True")
    template = spec["template"]
    labels = template.get("metadata", {}).get("labels")
    if labels and "labels" not in job["metadata"]:
        job["metadata"]["labels"] = dict(labels)
    fill_pod_spec(template.setdefault("spec", {}))


def _pod(pod: Object) -> None:
    spec = pod.setdefault("spec", {})
    fill_pod_spec(spec)
    _fill(spec, enableServiceLinks=True, preemptionPolicy="PreemptLowerPriority", priority=0)
    _fill(spec, serviceAccountName="default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    # What the admission plugin DefaultTolerationSeconds adds: five minutes on a node that went away.
    tolerations = spec.setdefault("tolerations", [])
    for trouble in ("not-ready", "unreachable"):
        key = f"node.kubernetes.io/{trouble}"
        if not any(t.get("key", key) == key and t.get("effect", "NoExecute") == "NoExecute" for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _service(service: Object) -> None:
    spec = service.setdefault("spec", {})
    _fill(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    spec.setdefault("clusterIP", "10.96.0.10")
    _fill(spec, clusterIPs=[spec["clusterIP"]], ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    for port in spec.get("ports", []):
        _fill(port, protocol="TCP", targetPort=port.get("port"))


_DEFAULTS: dict[Resource, Callable[[Object], None]] = {JOBS: _job, PODS: _pod, SERVICES: _service}


def _fill_container(container: Object) -> None:
    image = container.get("image", "")
    latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
    _fill(
        container,
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        imagePullPolicy="Always" if latest and "@" not in image else "IfNotPresent",
        resources={},
    )
    resources = container["resources"]
    for name, limit in resources.get("limits", {}).items():
        resources.setdefault("requests", {}).setdefault(name, limit)
    for variable in container.get("env", []):
        field = variable.get("valueFrom", {}).get("fieldRef")
        if field is not None:
            field.setdefault("apiVersion", "v1")
    for port in container.get("ports", []):
        _fill(port, protocol="TCP")


def _fill_volume(volume: Object) -> None:
    for kind in ("secret", "configMap", "projected", "downwardAPI"):
        if kind in volume:
            volume[kind].setdefault("defaultMode", 0o644)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")


def _quality(spec: Object) -> str:
    kinds = [c.get("resources", {}) for c in spec.get("containers", [])]
    if all(not r.get("limits") and not r.get("requests") for r in kinds):
        return "BestEffort"
    whole = all({"cpu", "memory"} <= r.get("limits", {}).keys() and r["limits"] == r["requests"] for r in kinds)
    return "Guaranteed" if whole else "Burstable"


def _fill(data: Object, **values: Any) -> None:
    for name, value in values.items():
        data.setdefault(name, value)
