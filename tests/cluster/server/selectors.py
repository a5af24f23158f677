"""Label and field selectors, read from a query and matched against objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.cluster.server.errors import bad_request
from tests.cluster.server.objects import Object
from tests.cluster.server.resources import EVENTS, JOBS, NODES, PODS, Resource

_TERM = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<none>[^\s,()=!]+)"
    r"|(?P<key>[^\s,()=!<>]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[^\s,()]*)"
    r"|\s(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|$)"
)


@dataclass
class Selector:
    """A conjunction. `pairs` are its equalities on labels, which the store's index answers."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    tests: list[Callable[[Object], bool]] = field(default_factory=list)

    def matches(self, data: Object) -> bool:
        labels = data["metadata"].get("labels") or {}
        return all(labels.get(k) == v for k, v in self.pairs) and all(test(data) for test in self.tests)


def parse_selector(resource: Resource, labels: str, fields: str) -> Selector:
    """The selector of a request; raises 400 where it cannot be read."""
    selector = Selector()
    _labels(selector, labels)
    for term in filter(None, fields.split(",")):
        _field(selector, resource, term)
    return selector


def _labels(selector: Selector, text: str) -> None:
    at = 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None or term.end() == at:
            raise bad_request(f'unable to parse requirement: found "{text[at:]}", expected: label selector')
        at = term.end()
        if term["op"] in ("=", "=="):
            selector.pairs.append((term["key"], term["value"]))
        else:
            selector.tests.append(_label_test(term))


def _label_test(term: re.Match[str]) -> Callable[[Object], bool]:
    key = term["key"] or term["none"]
    values = {v.strip() for v in (term["values"] or term["value"] or "").split(",")}
    if term["absent"]:
        return lambda data: key not in (data["metadata"].get("labels") or {})
    if term["op"] == "!=" or term["set"] == "notin":
        return lambda data: (data["metadata"].get("labels") or {}).get(key) not in values
    if term["set"] == "in":
        return lambda data: (data["metadata"].get("labels") or {}).get(key) in values
    return lambda data: key in (data["metadata"].get("labels") or {})


# Fields that Kubernetes can select on, beyond metadata.name and metadata.namespace.
_FIELDS = {
    PODS: {
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    },
    EVENTS: {
        *(f"involvedObject.{f}" for f in ("kind", "name", "namespace", "uid", "apiVersion", "fieldPath")),
        "reason",
        "type",
        "source",
        "reportingComponent",
    },
    JOBS: {"status.successful"},
    NODES: {"spec.unschedulable"},
}


def _field(selector: Selector, resource: Resource, term: str) -> None:
    match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
    if match is None:
        raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
    name, operator, value = match.groups()
    if name not in {"metadata.name", "metadata.namespace"} | _FIELDS.get(resource, set()):
        raise bad_request(f'field label not supported: "{name}"')
    path = {"status.successful": "status.succeeded", "source": "source.component"}.get(name, name).split(".")

    def test(data: Object) -> bool:
        found: object = data
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        text = "" if found is None else str(found).lower() if isinstance(found, bool) else str(found)
        return (text == value) == (operator != "!=")

    selector.tests.append(test)
