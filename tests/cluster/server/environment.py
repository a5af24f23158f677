"""The environment of a container, as the kubelet puts it together."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from tests.cluster.server.objects import Object
from tests.cluster.server.quantities import quantity
from tests.cluster.server.resources import CONFIG_MAPS, SECRETS, Resource

# Reads a ConfigMap or Secret of the pod's namespace by name.
Read = Callable[[Resource, str], Object | None]


class ConfigError(Exception):
    """What keeps a container from being created, in the kubelet's words."""


def environment(pod: Object, container: Object, read: Read) -> dict[str, str]:
    """The variables; raises ConfigError where something they name is missing."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for field, resource in (("configMapRef", CONFIG_MAPS), ("secretRef", SECRETS)):
            if field in source:
                values = _all_values(resource, source[field], read)
                variables |= {source.get("prefix", "") + k: v for k, v in values.items()}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            value = _value_from(pod, container, variable["valueFrom"], read)
        else:
            value = expand(variable.get("value", ""), variables)
        if value is not None:
            variables[variable["name"]] = value
    return variables


def missing_volume(pod: Object, read: Read) -> str:
    """Why the pod's volumes cannot be mounted; empty where they can. Their contents are not mounted here."""
    for volume in pod["spec"].get("volumes", []):
        for field, key, resource in (("configMap", "name", CONFIG_MAPS), ("secret", "secretName", SECRETS)):
            name = volume.get(field, {}).get(key, "")
            if field in volume and not volume[field].get("optional") and read(resource, name) is None:
                what = f'{resource.kind.lower()} "{name}" not found'
                return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {what}'
    return ""


def expand(text: str, variables: dict[str, str]) -> str:
    """`$(NAME)` for its value, `$$` for a dollar; an unknown name stays as it is."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))",
        lambda m: "$" if m[1] == "$" else variables.get(m[2], m[0]),
        text,
    )


def _values(resource: Resource, found: Object) -> dict[str, str]:
    if resource == CONFIG_MAPS:
        return dict(found.get("data", {}))
    encoded = {k: base64.b64decode(v).decode() for k, v in found.get("data", {}).items()}
    return encoded | found.get("stringData", {})


def _all_values(resource: Resource, reference: Object, read: Read) -> dict[str, str]:
    found = read(resource, reference.get("name", ""))
    if found is None and not reference.get("optional"):
        raise ConfigError(f'{resource.kind.lower()} "{reference.get("name", "")}" not found')
    return _values(resource, found) if found is not None else {}


def _value_from(pod: Object, container: Object, source: Object, read: Read) -> str | None:
    for field, resource in (("configMapKeyRef", CONFIG_MAPS), ("secretKeyRef", SECRETS)):
        if field in source:
            reference = source[field]
            values = _all_values(resource, reference, read)
            if reference["key"] not in values and not reference.get("optional"):
                where = f"{pod['metadata']['namespace']}/{reference.get('name', '')}"
                raise ConfigError(f"couldn't find key {reference['key']} in {resource.kind} {where}")
            return values.get(reference["key"])
    if "resourceFieldRef" in source:
        return _resource(container, source["resourceFieldRef"])
    return _field(pod, source["fieldRef"]["fieldPath"])


def _field(pod: Object, path: str) -> str:
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str(pod["metadata"].get(keyed[1], {}).get(keyed[2], ""))
    found: object = pod
    for part in path.split("."):
        found = found.get(part, "") if isinstance(found, dict) else ""
    return ",".join(x["ip"] for x in found) if isinstance(found, list) else str(found)


def _resource(container: Object, source: Object) -> str:
    kind, _, name = source["resource"].partition(".")
    amount = container["resources"].get(kind, {}).get(name, "0")
    return str(-(-quantity(amount) // quantity(source.get("divisor", "1"))))
