"""The verbs of the API on the store: decode, default, admit, validate, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.cluster.server import errors
from tests.cluster.server.defaults import fill_defaults, first_status, generate_job_labels
from tests.cluster.server.objects import Key, Object, Store, clone, stamp
from tests.cluster.server.patches import apply_patch
from tests.cluster.server.resources import JOBS, NAMESPACES, PODS, Resource
from tests.cluster.server.schema import check_schema
from tests.cluster.server.validation import check_new, check_update

JSON_PATCH = "application/json-patch+json"

# An admission plugin may change the new object, which is its own; it refuses with an ApiError.
Admission = Callable[[Resource, Object], None]


@dataclass(frozen=True)
class WriteOptions:
    """What the query of a write asks for."""

    validation: str = "Warn"  # Strict, Warn or Ignore: what an unknown field does
    dry_run: bool = False


@dataclass(frozen=True)
class DeleteOptions:
    """The body or query of a DELETE."""

    propagation: str | None = None  # Background, Foreground, Orphan
    grace: int | None = None
    preconditions: Object = field(default_factory=dict)
    dry_run: bool = False


class Registry:
    """Writes to the store as an API server makes them; `admission` runs on every new object in this order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.admission: list[Admission] = []

    def create(self, resource: Resource, namespace: str, data: Any, options: WriteOptions) -> tuple[Object, list[str]]:
        """The new object and warnings; raises ApiError."""
        data, warnings = self._decode(resource, data, options)
        meta = data.setdefault("metadata", {})
        if meta.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        for field_name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
            meta.pop(field_name, None)
        return self.add(resource, namespace, data, dry_run=options.dry_run), warnings

    def add(self, resource: Resource, namespace: str, data: Object, *, dry_run: bool = False) -> Object:
        """Adds an object whose schema is known to hold, as a controller's is; it becomes the server's."""
        with self.store.lock:
            meta = data["metadata"]
            self._place(resource, namespace, meta)
            fill_defaults(resource, data)
            meta["uid"] = self.store.new_uid()
            status = first_status(resource, data)
            if status is not None:
                data["status"] = status
            if "spec" in data:
                meta["generation"] = 1
            if resource == JOBS:
                generate_job_labels(data)
            if self.store.find(resource, (meta.get("namespace", ""), meta["name"])):
                raise errors.already_exists(resource, meta["name"])
            for admit in self.admission:
                admit(resource, data)
            check_new(resource, data)
            return data if dry_run else self.store.add(resource, data)

    def _place(self, resource: Resource, namespace: str, meta: Object) -> None:
        if not meta.get("name"):
            if not meta.get("generateName"):
                raise errors.invalid(
                    resource, "", [("metadata.name", "Required value: name or generateName is required")]
                )
            meta["name"] = self.store.generated_name(meta["generateName"])
        if not resource.namespaced:
            meta.pop("namespace", None)
            return
        if meta.setdefault("namespace", namespace) != namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        if self.store.find(NAMESPACES, ("", namespace)) is None:
            raise errors.not_found(NAMESPACES, namespace)

    def update(
        self, resource: Resource, key: Key, data: Any, options: WriteOptions, *, part: str = ""
    ) -> tuple[Object, list[str]]:
        """PUT of the object, or of its status (`part` "status")."""
        data, warnings = self._decode(resource, data, options)
        if data.get("metadata", {}).get("name", key[1]) != key[1]:
            raise errors.bad_request("the name of the object does not match the name on the URL")
        with self.store.lock:
            return self._replace(resource, self.store.get(resource, key), data, options, part), warnings

    def patch(
        self, resource: Resource, key: Key, kind: str, patch: Any, options: WriteOptions, *, part: str = ""
    ) -> tuple[Object, list[str]]:
        """PATCH of the object, or of its status."""
        with self.store.lock:
            old = self.store.get(resource, key)
            data, warnings = self._decode(resource, apply_patch(kind, old, patch), options)
            given = patch.get("metadata", {}).get("resourceVersion") if isinstance(patch, dict) else None
            if given is None and kind != JSON_PATCH:
                data["metadata"].pop("resourceVersion", None)
            return self._replace(resource, old, data, options, part), warnings

    def _replace(self, resource: Resource, old: Object, data: Object, options: WriteOptions, part: str) -> Object:
        was, meta = old["metadata"], data.setdefault("metadata", {})
        if meta.get("resourceVersion") and meta["resourceVersion"] != was["resourceVersion"]:
            raise errors.stale(resource, was["name"])
        if meta.get("uid", was["uid"]) != was["uid"]:
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}"
            raise errors.conflict(resource, was["name"], why)
        if part == "status":
            data = old | {"status": data.get("status", {})}
        else:
            data["metadata"] = meta = clone(meta)
            server_owned = ("namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "generateName")
            for name in (*server_owned, "deletionTimestamp", "deletionGracePeriodSeconds"):
                meta.pop(name, None)
                if name in was:
                    meta[name] = was[name]
            meta["name"] = was["name"]
            data = clone(data)
            if "status" in old:
                data["status"] = old["status"]
            fill_defaults(resource, data)
            check_update(resource, old, data)
        return data if options.dry_run else self.store.put(resource, data)

    def _decode(self, resource: Resource, data: Any, options: WriteOptions) -> tuple[Object, list[str]]:
        if not isinstance(data, dict):
            raise errors.bad_request("the object provided is unrecognized (must be of type " + resource.kind + ")")
        for name, expected in (("apiVersion", resource.api_version), ("kind", resource.kind)):
            if data.get(name, expected) != expected:
                raise errors.bad_request(
                    f"the API version in the data ({data.get('apiVersion')}, Kind={data.get('kind')}) does not match "
                    f"the expected API version ({resource.api_version}, Kind={resource.kind})"
                )
        data = {"apiVersion": resource.api_version, "kind": resource.kind} | data
        data, warnings = check_schema(resource, data, strict=options.validation == "Strict")
        return data, warnings if options.validation == "Warn" else []

    def delete(self, resource: Resource, key: Key, options: DeleteOptions) -> Object:
        """Starts or ends an object's deletion; its last state if it still stands, else a `Status` of success."""
        with self.store.lock:
            old = self.store.get(resource, key)
            _check_preconditions(resource, old, options.preconditions)
            data = clone(old)
            meta = data["metadata"]
            grace = self._grace(resource, data, options)
            if "deletionTimestamp" not in meta:
                for finalizer in _finalizers(resource, options.propagation):
                    meta.setdefault("finalizers", []).append(finalizer)
            elif grace >= meta.get("deletionGracePeriodSeconds", 0):
                return old
            meta["deletionTimestamp"] = stamp(self.store.clock.now() + timedelta(seconds=grace))
            meta["deletionGracePeriodSeconds"] = grace
            if "generation" in meta:
                meta["generation"] += 1
            if options.dry_run:
                return data
            gone = not meta.get("finalizers") and not grace
            last = self.store.put(resource, data)
            if not gone or resource == PODS:
                return last
            details = {"name": key[1], "kind": resource.plural, "uid": meta["uid"]}
            details |= {"group": resource.group} if resource.group else {}
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _grace(self, resource: Resource, data: Object, options: DeleteOptions) -> int:
        """Seconds until the object may go: only a pod on a node has them, for its processes."""
        if resource != PODS:
            return 0
        finished = data["status"]["phase"] in ("Succeeded", "Failed")
        if finished or not data["spec"].get("nodeName"):
            return 0
        return data["spec"]["terminationGracePeriodSeconds"] if options.grace is None else max(0, options.grace)


def _check_preconditions(resource: Resource, old: Object, preconditions: Object) -> None:
    meta = old["metadata"]
    for field_name, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        wanted = preconditions.get(field_name)
        if wanted is not None and wanted != meta[field_name]:
            why = f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {meta[field_name]}"
            raise errors.conflict(resource, meta["name"], why)


def _finalizers(resource: Resource, propagation: str | None) -> list[str]:
    """What holds the object until the garbage collector did its part. Jobs orphan their pods unless told otherwise."""
    policy = propagation or ("Orphan" if resource == JOBS else "Background")
    return {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(policy, [])
