"""Who may do what: a set of (group, resource, verb), and the words of a refusal."""

from __future__ import annotations

from tests.cluster.server.errors import forbidden
from tests.cluster.server.objects import Object
from tests.cluster.server.resources import Resource

Rights = set[tuple[str, str, str]]


class Authorizer:
    """`rights` None allows everything. A subresource is named as in a Role: "pods/log"."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.rights: Rights | None = None

    def allows(self, group: str, resource: str, verb: str) -> bool:
        if self.rights is None:
            return True
        groups, resources, verbs = (group, "*"), (resource, "*"), (verb, "*")
        return any((g, r, v) in self.rights for g in groups for r in resources for v in verbs)

    def check(self, resource: Resource, namespace: str, name: str, part: str, verb: str) -> None:
        """Raises 403 in the words of Kubernetes' RBAC."""
        plural = f"{resource.plural}/{part}" if part else resource.plural
        if self.allows(resource.group, plural, verb):
            return
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        why = f'User "{self.user}" cannot {verb} resource "{plural}" in API group "{resource.group}" {where}'
        raise forbidden(resource, name if verb != "create" else "", why)

    def review(self, spec: Object) -> Object:
        """The status of a SelfSubjectAccessReview."""
        attributes = spec.get("resourceAttributes", {})
        part = attributes.get("subresource")
        plural = attributes.get("resource", "") + (f"/{part}" if part else "")
        allowed = self.allows(attributes.get("group", ""), plural, attributes.get("verb", ""))
        return {"allowed": allowed} | ({} if allowed else {"reason": "no rule of the test allows it"})
