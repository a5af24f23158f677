"""The paths that are no objects: version, health, and which resources there are."""

from __future__ import annotations

from typing import Any

from tests.cluster.server.resources import RESOURCES
from tests.cluster.server.schema import VERSION

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def discover(path: str) -> Any:
    """The answer for one of these paths; None where it is another's."""
    parts = path.strip("/").split("/")
    if path in ("/healthz", "/livez", "/readyz"):
        return "ok"
    if path == "/version":
        major, minor = VERSION.split(".")
        return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}.0", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(g, v) for g, v in _groups()]}
    if parts[0] == "api" and len(parts) == 2:
        return _resources("", parts[1])
    if parts[0] == "apis" and len(parts) == 3:
        return _resources(parts[1], parts[2])
    return None


def _groups() -> list[tuple[str, str]]:
    return sorted({(g, v) for g, v, _ in RESOURCES if g} | {("authorization.k8s.io", "v1")})


def _group(group: str, version: str) -> dict[str, Any]:
    entry = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _resources(group: str, version: str) -> dict[str, Any] | None:
    found = [
        {"name": r.plural, "singularName": r.kind.lower(), "namespaced": r.namespaced, "kind": r.kind, "verbs": _VERBS}
        for (g, v, _), r in RESOURCES.items()
        if (g, v) == (group, version)
    ]
    if (group, version) == ("authorization.k8s.io", "v1"):
        review = {"name": "selfsubjectaccessreviews", "singularName": "", "namespaced": False, "verbs": ["create"]}
        found = [review | {"kind": "SelfSubjectAccessReview"}]
    if not found:
        return None
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": found}
