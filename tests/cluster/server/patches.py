"""The three kinds of patch: JSON patch, merge patch, and strategic merge patch for the lists that Kubernetes keys."""

from __future__ import annotations

from typing import Any

from tests.cluster.server.errors import ApiError, bad_request
from tests.cluster.server.objects import clone

# Where a list is merged by a key of its items. Every other list is replaced, as `atomic` lists are.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "conditions": "type",
    "ownerReferences": "uid",
    "ports": "containerPort",
}
_SETS = {"finalizers"}


def apply_patch(kind: str, data: Any, patch: Any) -> Any:
    """The object after a patch of this content type; raises 415 for an unknown one, 400 or 422 for a wrong patch."""
    if kind == "application/json-patch+json":
        return _json_patch(clone(data), patch)
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: the patch is not an object")
    if kind == "application/merge-patch+json":
        return _merge(data, patch)
    if kind == "application/strategic-merge-patch+json":
        return _strategic(data, patch)
    raise ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
    )


def _merge(data: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return clone(patch)
    merged = dict(data) if isinstance(data, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def _strategic(data: Any, patch: dict[str, Any]) -> Any:
    if patch.get("$patch") == "replace":
        return {k: clone(v) for k, v in patch.items() if k != "$patch"}
    merged = dict(data) if isinstance(data, dict) else {}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            listed = name.partition("/")[2]
            merged[listed] = [v for v in merged.get(listed) or [] if v not in value]
        elif name.startswith("$"):
            continue  # $setElementOrder, $retainKeys: hints of kubectl that change nothing here
        elif value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = _strategic(merged.get(name), value)
        elif isinstance(value, list) and name in _SETS:
            merged[name] = [*(merged.get(name) or []), *(v for v in value if v not in (merged.get(name) or []))]
        elif isinstance(value, list) and name in _KEYS:
            merged[name] = _strategic_list(merged.get(name) or [], value, _KEYS[name])
        else:
            merged[name] = clone(value)
    return merged


def _strategic_list(items: list[Any], patch: list[Any], key: str) -> list[Any]:
    merged = list(items)
    for entry in patch:
        at = next((i for i, item in enumerate(merged) if item.get(key) == entry.get(key)), None)
        if entry.get("$patch") == "delete":
            merged = merged if at is None else merged[:at] + merged[at + 1 :]
        elif at is None:
            merged.append(_strategic({}, entry))
        else:
            merged[at] = _strategic(merged[at], entry)
    return merged


def _json_patch(data: Any, patch: Any) -> Any:
    if not isinstance(patch, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    for step in patch:
        parts = [p.replace("~1", "/").replace("~0", "~") for p in step["path"].split("/")[1:]]
        try:
            parent = data
            for part in parts[:-1]:
                parent = parent[int(part)] if isinstance(parent, list) else parent[part]
            _json_step(parent, parts[-1], step)
        except (KeyError, IndexError, ValueError, TypeError):
            text = f"the server rejected our request due to an error in our request: {step['op']} {step['path']}"
            raise ApiError(422, "Invalid", text) from None
    return data


def _json_step(parent: Any, last: str, step: dict[str, Any]) -> None:
    if isinstance(parent, list):
        at = len(parent) if last == "-" else int(last)
        if step["op"] == "add":
            parent.insert(at, clone(step["value"]))
        elif step["op"] == "remove":
            del parent[at]
        elif step["op"] == "replace":
            parent[at] = clone(step["value"])
        elif step["op"] != "test" or parent[at] != step["value"]:
            raise ValueError(step)
    elif step["op"] == "remove":
        del parent[last]
    elif step["op"] == "add" or (step["op"] == "replace" and last in parent):
        parent[last] = clone(step["value"])
    elif step["op"] != "test" or parent.get(last) != step["value"]:
        raise ValueError(step)
