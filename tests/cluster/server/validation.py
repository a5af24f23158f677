"""What the server refuses of a new or changed object, after its schema and its defaults."""

from __future__ import annotations

from tests.cluster.server import errors, names
from tests.cluster.server.job_rules import check_job, check_job_update
from tests.cluster.server.names import Causes, bad_value
from tests.cluster.server.objects import Object, clone
from tests.cluster.server.pod_rules import check_pod_spec
from tests.cluster.server.resources import JOBS, PODS, SERVICES, Resource

_LABEL_NAMES = ("namespaces",)
_POD_MAY_CHANGE = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates")


def check_new(resource: Resource, data: Object) -> None:
    """Raises 422 with every cause, and 501 for what a real cluster would do and this one cannot."""
    if resource == JOBS:
        _check_modelled(data["spec"])
    causes = _name(resource, data) + names.labels(data["metadata"])
    if resource == JOBS:
        causes += check_job(data)
    elif resource == PODS:
        causes += check_pod_spec(data["spec"], "spec")
    elif resource == SERVICES:
        causes += _service(data["spec"])
    _refuse(resource, data, causes)


def check_update(resource: Resource, old: Object, new: Object) -> None:
    """Raises 422 with every cause."""
    causes = names.labels(new["metadata"])
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        if new["metadata"].get(field) != old["metadata"].get(field):
            causes.append((f"metadata.{field}", bad_value(new["metadata"].get(field), "field is immutable")))
    if resource == JOBS:
        causes += check_job_update(old, new)
    elif resource == PODS:
        causes += _pod_update(old["spec"], new["spec"])
    elif resource == SERVICES and old["spec"].get("clusterIP") != new["spec"].get("clusterIP"):
        causes.append(("spec.clusterIPs[0]", bad_value(new["spec"].get("clusterIP"), "may not change once set")))
    if old.get("immutable") and any(old.get(f) != new.get(f) for f in ("data", "stringData", "binaryData")):
        causes.append(("data", "Forbidden: field is immutable when `immutable` is set"))
    _refuse(resource, new, causes)


def _check_modelled(spec: Object) -> None:
    """A test that passes because something was silently left out would prove nothing."""
    init = spec["template"]["spec"].get("initContainers", [])
    missing = {
        "successPolicy": "successPolicy" in spec,
        "restartPolicy OnFailure": spec["template"]["spec"]["restartPolicy"] == "OnFailure",
        "a sidecar (an init container with a restartPolicy)": any("restartPolicy" in c for c in init),
    }
    for what, asked in missing.items():
        if asked:
            raise errors.ApiError(501, "NotImplemented", f"the test cluster does not model {what}")


def _name(resource: Resource, data: Object) -> Causes:
    name = data["metadata"]["name"]
    if resource.plural in _LABEL_NAMES:
        return names.dns_label("metadata.name", name)
    if resource == SERVICES:
        return names.dns_1035_label("metadata.name", name)
    return names.dns_subdomain("metadata.name", name)


def _service(spec: Object) -> Causes:
    causes: Causes = []
    if not spec.get("ports") and spec["clusterIP"] != "None" and spec["type"] != "ExternalName":
        causes.append(("spec.ports", "Required value"))
    for number, port in enumerate(spec.get("ports", [])):
        at = f"spec.ports[{number}]"
        if not 1 <= port["port"] <= 65535:
            causes.append((f"{at}.port", bad_value(port["port"], "must be between 1 and 65535, inclusive")))
        if len(spec["ports"]) > 1 and not port.get("name"):
            causes.append((f"{at}.name", "Required value"))
    return causes + names.label_map("spec.selector", spec.get("selector") or {})


def _pod_update(old: Object, new: Object) -> Causes:
    def fixed(spec: Object) -> Object:
        spec = clone({k: v for k, v in spec.items() if k not in _POD_MAY_CHANGE})
        for kind in ("containers", "initContainers"):
            for container in spec.get(kind, []):
                container.pop("image", None)
        return spec

    if fixed(old) == fixed(new):
        return []
    why = (
        "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
        "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
        "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
    )
    return [("spec", why)]


def _refuse(resource: Resource, data: Object, causes: Causes) -> None:
    if causes:
        raise errors.invalid(resource, data["metadata"]["name"], causes)
