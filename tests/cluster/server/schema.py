"""Objects against the published schema of Kubernetes, which the package kubernetes-validate carries."""

from __future__ import annotations

import functools
import json
import re
from importlib import resources as packages
from typing import Any

from tests.cluster.server import errors
from tests.cluster.server.objects import Object, clone
from tests.cluster.server.resources import Resource

VERSION = "1.33"
_FOLDER = f"kubernetes-json-schema/v{VERSION}.0-local-strict"


def check_schema(resource: Resource, data: Object, *, strict: bool) -> tuple[Object, list[str]]:
    """The object as the server understands it, and warnings about fields it does not know.

    Unknown fields are an error where the client asked for strict validation; else they are dropped, as Kubernetes does.
    """
    data = _without_nulls(data)
    validator = _validator(resource)
    if validator is None:  # a custom resource: its schema is Kueue's, not Kubernetes'
        return data, []
    unknown: list[tuple[list[Any], str]] = []
    causes: list[tuple[str, str]] = []
    for error in validator.iter_errors(data):
        path = list(error.absolute_path)
        if error.validator == "additionalProperties" and error.schema.get("additionalProperties") is False:
            known = error.schema.get("properties", {})
            unknown += [(path, name) for name in error.instance if name not in known]
        elif error.validator == "required":
            causes += [
                (_dotted([*path, n]), "Required value") for n in error.validator_value if n not in error.instance
            ]
        elif error.validator == "enum":
            allowed = ", ".join(f'"{v}"' for v in error.validator_value if v is not None)
            causes.append((_dotted(path), f'Unsupported value: "{error.instance}": supported values: {allowed}'))
        else:
            raise errors.bad_request(_cannot_decode(resource, path, error))
    if unknown and strict:
        fields = ", ".join(f'unknown field "{_dotted([*path, name])}"' for path, name in unknown)
        raise errors.bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f"strict decoding error: {fields}"
        )
    if causes:
        raise errors.invalid(resource, (data.get("metadata") or {}).get("name", ""), causes)
    return _dropped(data, unknown), [f'unknown field "{_dotted([*path, name])}"' for path, name in unknown]


@functools.cache
def _validator(resource: Resource) -> Any:
    import jsonschema
    import referencing

    group = resource.group.split(".")[0]
    file = f"{_FOLDER}/{resource.kind.lower()}-{group + '-' if group else ''}{resource.version}.json"
    path = packages.files("kubernetes_validate") / file
    if not path.is_file():
        return None
    schema = json.loads(path.read_text())
    registry = _definitions() @ referencing.Registry()
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions() -> Any:
    import referencing

    text = (packages.files("kubernetes_validate") / f"{_FOLDER}/_definitions.json").read_text()
    return referencing.Resource.from_contents(json.loads(text))


def _cannot_decode(resource: Resource, path: list[Any], error: Any) -> str:
    found = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    wanted = error.validator_value if error.validator == "type" else error.message
    wanted = " or ".join(t for t in wanted if t != "null") if isinstance(wanted, list) else wanted
    return (
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: cannot '
        f"unmarshal {found.get(type(error.instance), 'value')} into Go struct field "
        f"{resource.kind}.{_dotted(path)} of type {wanted}"
    )


def _dotted(path: list[Any]) -> str:
    return re.sub(r"\.\[", "[", ".".join(f"[{p}]" if isinstance(p, int) else str(p) for p in path))


def _without_nulls(value: Any) -> Any:
    """A null is an absent field to the server's decoder."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


def _dropped(data: Object, unknown: list[tuple[list[Any], str]]) -> Object:
    if not unknown:
        return data
    data = clone(data)
    for path, name in unknown:
        parent: Any = data
        for part in path:
            parent = parent[part]
        parent.pop(name, None)
    return data
