"""What a pod's spec must obey beyond its schema."""

from __future__ import annotations

import re

from tests.cluster.server import names
from tests.cluster.server.names import Causes, bad_value
from tests.cluster.server.objects import Object
from tests.cluster.server.quantities import quantity

_RESTARTS = ("Always", "OnFailure", "Never")
_ENV = re.compile(r"[^=\x00-\x1f\x7f-\uffff]+")
_FIELDS = re.compile(
    r"metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']+'\]"
    r"|spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs)"
)
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")


def check_pod_spec(spec: Object, field: str) -> Causes:
    """What is wrong with a pod's spec after defaults, at `field` of the object."""
    causes: Causes = []
    if spec["restartPolicy"] not in _RESTARTS:
        causes.append((f"{field}.restartPolicy", _unsupported(spec["restartPolicy"], _RESTARTS)))
    if spec["terminationGracePeriodSeconds"] < 0:
        at = f"{field}.terminationGracePeriodSeconds"
        causes.append((at, bad_value(spec["terminationGracePeriodSeconds"], "must be greater than or equal to 0")))
    if not spec.get("containers"):
        causes.append((f"{field}.containers", "Required value"))
    causes += _volumes(spec, field)
    seen: set[str] = set()
    mounts = {v["name"] for v in spec.get("volumes", [])}
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(kind, [])):
            causes += _container(container, f"{field}.{kind}[{number}]", seen, mounts)
    for name in ("hostname", "subdomain"):
        if name in spec:
            causes += names.dns_label(f"{field}.{name}", spec[name])
    for name in ("serviceAccountName", "priorityClassName"):
        if spec.get(name):
            causes += names.dns_subdomain(f"{field}.{name}", spec[name])
    for number, toleration in enumerate(spec.get("tolerations", [])):
        causes += _toleration(toleration, f"{field}.tolerations[{number}]")
    return causes + names.label_map(f"{field}.nodeSelector", spec.get("nodeSelector", {}))


def _container(container: Object, field: str, seen: set[str], volumes: set[str]) -> Causes:
    name = container["name"]
    causes = names.dns_label(f"{field}.name", name)
    if name in seen:
        causes.append((f"{field}.name", f'Duplicate value: "{name}"'))
    seen.add(name)
    if not container.get("image", "").strip():
        causes.append((f"{field}.image", "Required value"))
    if container["imagePullPolicy"] not in ("Always", "IfNotPresent", "Never"):
        wrong = _unsupported(container["imagePullPolicy"], ("Always", "IfNotPresent", "Never"))
        causes.append((f"{field}.imagePullPolicy", wrong))
    causes += _environment(container, field) + _resources(container["resources"], f"{field}.resources")
    paths: set[str] = set()
    for number, mount in enumerate(container.get("volumeMounts", [])):
        at = f"{field}.volumeMounts[{number}]"
        if mount["name"] not in volumes:
            causes.append((f"{at}.name", f'Not found: "{mount["name"]}"'))
        if mount["mountPath"] in paths:
            causes.append((f"{at}.mountPath", bad_value(mount["mountPath"], "must be unique")))
        paths.add(mount["mountPath"])
    return causes


def _environment(container: Object, field: str) -> Causes:
    causes: Causes = []
    for number, variable in enumerate(container.get("env", [])):
        at = f"{field}.env[{number}]"
        if not _ENV.fullmatch(variable["name"]):
            causes.append((f"{at}.name", bad_value(variable["name"], "a valid environment variable name is expected")))
        source = variable.get("valueFrom")
        if source is None:
            continue
        kinds = [k for k in _SOURCES if k in source]
        if variable.get("value"):
            causes.append((f"{at}.valueFrom", bad_value("", "may not be specified when `value` is not empty")))
        if len(kinds) != 1:
            why = "may not have more than one field specified at a time" if kinds else "must specify one of: `fieldRef`"
            causes.append((f"{at}.valueFrom", bad_value("", why)))
        elif kinds == ["fieldRef"] and not _FIELDS.fullmatch(source["fieldRef"]["fieldPath"]):
            path = source["fieldRef"]["fieldPath"]
            causes.append((f"{at}.valueFrom.fieldRef.fieldPath", bad_value(path, "error converting fieldPath")))
    return causes


def _resources(resources: Object, field: str) -> Causes:
    causes: Causes = []
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            at = f"{field}.{kind}[{name}]"
            try:
                value = quantity(amount)
            except ValueError as error:
                causes.append((at, bad_value(amount, str(error))))
                continue
            native = "/" not in name
            if native and name not in ("cpu", "memory", "ephemeral-storage") and not name.startswith("hugepages-"):
                causes.append((at, bad_value(name, "must be a standard resource for containers")))
            elif value < 0:
                causes.append((at, bad_value(amount, "must be greater than or equal to 0")))
            elif not native and value.denominator != 1:
                causes.append((at, bad_value(amount, "must be an integer")))
    if causes:
        return causes
    for name, amount in requests.items():
        at = f"{field}.requests"
        if name in limits and quantity(amount) > quantity(limits[name]):
            why = f"must be less than or equal to {name} limit of {limits[name]}"
            causes.append((at, bad_value(amount, why)))
        elif "/" in name and (name not in limits or quantity(amount) != quantity(limits[name])):
            why = "Limit must be set for non overcommitable resources"
            if name in limits:
                why = f"must be equal to {name} limit of {limits[name]}"
            causes.append((at, bad_value(amount, why) if name in limits else f"Required value: {why}"))
    return causes


def _volumes(spec: Object, field: str) -> Causes:
    causes: Causes = []
    seen: set[str] = set()
    for number, volume in enumerate(spec.get("volumes", [])):
        at = f"{field}.volumes[{number}]"
        causes += names.dns_label(f"{at}.name", volume["name"])
        if volume["name"] in seen:
            causes.append((f"{at}.name", f'Duplicate value: "{volume["name"]}"'))
        seen.add(volume["name"])
        kinds = [k for k in volume if k != "name"]
        if not kinds:
            causes.append((at, "Required value: must specify a volume type"))
        elif len(kinds) > 1:
            causes.append((f"{at}.{kinds[1]}", "Forbidden: may not specify more than 1 volume type"))
        size = volume.get("emptyDir", {}).get("sizeLimit")
        if size is not None:
            try:
                quantity(size)
            except ValueError as error:
                causes.append((f"{at}.emptyDir.sizeLimit", bad_value(size, str(error))))
    return causes


def _toleration(toleration: Object, field: str) -> Causes:
    operator, key = toleration.get("operator", "Equal"), toleration.get("key", "")
    causes: Causes = []
    if operator not in ("Equal", "Exists"):
        causes.append((f"{field}.operator", _unsupported(operator, ("Equal", "Exists"))))
    if not key and operator != "Exists":
        why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        causes.append((f"{field}.operator", bad_value(operator, why)))
    if operator == "Exists" and toleration.get("value"):
        causes.append((f"{field}.operator", bad_value(operator, "value must be empty when `operator` is 'Exists'")))
    if "tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute":
        why = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        causes.append((f"{field}.effect", bad_value(toleration.get("effect", ""), why)))
    return causes


def _unsupported(value: str, supported: tuple[str, ...]) -> str:
    return f'Unsupported value: "{value}": supported values: ' + ", ".join(f'"{s}"' for s in sorted(supported))
