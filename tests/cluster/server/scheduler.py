"""The scheduler: gives each pod the first node that takes it, or says why none does."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from tests.cluster.server import conditions
from tests.cluster.server.events import Recorder
from tests.cluster.server.objects import Change, Key, Object, Store
from tests.cluster.server.quantities import quantity
from tests.cluster.server.resources import NODES, PODS

Amounts = dict[str, Fraction]


def requests(spec: Object) -> Amounts:
    """What a pod asks for: the sum of its containers, or the largest init container where that is more; and one pod."""
    total: Amounts = {}
    for container in spec["containers"]:
        for name, amount in container["resources"].get("requests", {}).items():
            total[name] = total.get(name, Fraction(0)) + quantity(amount)
    for container in spec.get("initContainers", []):
        for name, amount in container["resources"].get("requests", {}).items():
            total[name] = max(total.get(name, Fraction(0)), quantity(amount))
    return total | {"pods": Fraction(1)}


def tolerates(tolerations: list[Object], taint: Object) -> bool:
    for t in tolerations:
        if t.get("effect") not in (None, "", taint["effect"]) or t.get("key") not in (None, "", taint["key"]):
            continue
        if t.get("operator", "Equal") == "Exists" or t.get("value", "") == taint.get("value", ""):
            return True
    return False


def selects(spec: Object, node: Object) -> bool:
    """Whether the pod's node selector and required affinity take this node."""
    labels = node["metadata"].get("labels", {})
    if any(labels.get(k) != v for k, v in spec.get("nodeSelector", {}).items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms")
    return terms is None or any(all(_expression(e, labels) for e in t.get("matchExpressions", [])) for t in terms)


def _expression(expression: Object, labels: dict[str, str]) -> bool:
    value, operator = labels.get(expression["key"]), expression["operator"]
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) == (operator == "Exists")
    if operator in ("In", "NotIn"):
        return (value in expression["values"]) == (operator == "In")
    if value is None:
        return False
    return int(value) > int(expression["values"][0]) if operator == "Gt" else int(value) < int(expression["values"][0])


class Scheduler:
    """First fit, higher priority first, then the older; it preempts nobody."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._events = Recorder(store, "default-scheduler")
        self._waiting: dict[Key, Object] = {}
        self._placed: dict[str, tuple[str, Amounts]] = {}  # by the pod's uid: its node and what it holds there
        self._used: dict[str, Amounts] = {}
        self._retry = False

    def observe(self, change: Change) -> None:
        if change.resource == NODES:
            self._retry = True
        elif change.resource == PODS:
            self._observe_pod(change)

    def _observe_pod(self, change: Change) -> None:
        pod = change.new.data
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        ended = change.kind == "DELETED" or pod["status"]["phase"] in ("Succeeded", "Failed")
        if node and not ended and uid not in self._placed:
            self._hold(uid, node, pod["spec"])
        if ended and uid in self._placed:
            where, amounts = self._placed.pop(uid)
            for name, amount in amounts.items():
                self._used[where][name] -= amount
            self._retry = True
        if node or ended or "deletionTimestamp" in pod["metadata"]:
            self._waiting.pop(change.key, None)
        else:
            self._retry = self._retry or change.key not in self._waiting
            self._waiting[change.key] = pod

    def _hold(self, uid: str, node: str, spec: Object) -> None:
        amounts = requests(spec)
        used = self._used.setdefault(node, {})
        for name, amount in amounts.items():
            used[name] = used.get(name, Fraction(0)) + amount
        self._placed[uid] = (node, amounts)

    def step(self) -> None:
        if not self._retry:
            return
        self._retry = False
        nodes = list(self._store.all(NODES))
        refused: dict[str, str] = {}  # pods that ask for the same fail alike: one look for all of them
        for key, pod in sorted(self._waiting.items(), key=lambda item: -item[1]["spec"].get("priority", 0)):
            if pod["spec"].get("schedulingGates"):
                continue
            wish = _wish(pod["spec"])
            if wish not in refused:
                node, reasons = self._choose(pod["spec"], nodes)
                if node is not None:
                    self._bind(key, pod, node)
                    continue
                refused[wish] = _sentence(len(nodes), reasons)
            self._refuse(key, pod, refused[wish])

    def _choose(self, spec: Object, nodes: list[Object]) -> tuple[str | None, Counter[str]]:
        reasons: Counter[str] = Counter()
        wanted = requests(spec)
        for node in nodes:
            name = node["metadata"]["name"]
            taints = [t for t in node["spec"].get("taints", []) if t["effect"] != "PreferNoSchedule"]
            bad = next((t for t in taints if not tolerates(spec.get("tolerations", []), t)), None)
            used, room = self._used.get(name, {}), node["status"]["allocatable"]
            short = [
                n
                for n, amount in wanted.items()
                if amount > quantity(room.get(n, 0)) - used.get(n, Fraction(0)) and amount
            ]
            if bad is not None:
                reasons[f"node(s) had untolerated taint {{{bad['key']}: {bad.get('value', '')}}}"] += 1
            elif node["spec"].get("unschedulable"):
                reasons["node(s) were unschedulable"] += 1
            elif not selects(spec, node):
                reasons["node(s) didn't match Pod's node affinity/selector"] += 1
            elif short:
                for n in short:
                    reasons["Too many pods" if n == "pods" else f"Insufficient {n}"] += 1
            else:
                return name, reasons
        return None, reasons

    def _bind(self, key: Key, pod: Object, node: str) -> None:
        now = self._store.clock.now()

        def bind(data: Object) -> None:
            data["spec"]["nodeName"] = node
            conditions.put(data["status"], "PodScheduled", "True", now)

        self._hold(pod["metadata"]["uid"], node, pod["spec"])
        del self._waiting[key]
        self._store.change(PODS, key, bind)
        self._events.normal(pod, "Scheduled", f"Successfully assigned {key[0]}/{key[1]} to {node}")

    def _refuse(self, key: Key, pod: Object, message: str) -> None:
        now = self._store.clock.now()
        found = conditions.find(pod["status"], "PodScheduled")
        if found is not None and found.get("message") == message:
            return
        self._store.change(
            PODS,
            key,
            lambda data: conditions.put(data["status"], "PodScheduled", "False", now, "Unschedulable", message),
        )
        self._events.warning(pod, "FailedScheduling", message)


def _wish(spec: Object) -> str:
    return repr([spec.get(f) for f in ("nodeSelector", "affinity", "tolerations")]) + repr(
        sorted(requests(spec).items())
    )


def _sentence(nodes: int, reasons: Counter[str]) -> str:
    if not nodes:
        return "no nodes available to schedule pods"
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    none = f"{nodes} Preemption is not helpful for scheduling"
    if all(r.startswith("Insufficient") or r == "Too many pods" for r in reasons):
        none = f"{nodes} No preemption victims found for incoming pod"
    return f"0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: {none}."
