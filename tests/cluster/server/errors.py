"""Refusals as Kubernetes words them: `Status` objects with code, reason and details."""

from __future__ import annotations

from typing import Any

from tests.cluster.server.resources import Resource


class ApiError(Exception):
    """A refusal that goes to the client as a `Status`."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The `Status` object."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        return status | ({"details": self.details} if self.details else {})


def _which(resource: Resource, name: str) -> dict[str, Any]:
    return {"name": name, "kind": resource.plural} | ({"group": resource.group} if resource.group else {})


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.name} "{name}" not found', **_which(resource, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(resource: Resource, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{resource.name} "{name}" already exists', **_which(resource, name))


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    text = f'Operation cannot be fulfilled on {resource.name} "{name}": {why}'
    return ApiError(409, "Conflict", text, **_which(resource, name))


def stale(resource: Resource, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, why)


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    which = f'{resource.name} "{name}"' if name else resource.name
    return ApiError(403, "Forbidden", f"{which} is forbidden: {why}", **_which(resource, name))


def invalid(resource: Resource, name: str, causes: list[tuple[str, str]]) -> ApiError:
    """422 for (field, what is wrong with it), each worded as Kubernetes' field errors are."""
    texts = [f"{field}: {why}" for field, why in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    which = {"name": name, "kind": resource.kind} | ({"group": resource.group} if resource.group else {})
    reasons = {
        "Required": "FieldValueRequired",
        "Unsupported": "FieldValueNotSupported",
        "Forbidden": "FieldValueForbidden",
    }
    details = [
        {"reason": reasons.get(why.split()[0].strip(":"), "FieldValueInvalid"), "message": why, "field": field}
        for field, why in causes
    ]
    return ApiError(422, "Invalid", f'{resource.qualified_kind} "{name}" is invalid: {text}', **which, causes=details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def bad_method() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
