"""Nodes: how they look, how they go away, and what their pods then get."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from tests.cluster.server import conditions
from tests.cluster.server.controllers import Timers
from tests.cluster.server.events import Recorder
from tests.cluster.server.kubelet import Kubelet
from tests.cluster.server.objects import Key, Object, stamp
from tests.cluster.server.registry import DeleteOptions, Registry
from tests.cluster.server.resources import NODES, PODS
from tests.cluster.server.scheduler import tolerates

_UNREACHABLE = "node.kubernetes.io/unreachable"
_MONITOR_GRACE = 40.0  # seconds without a heartbeat until a node counts as unreachable


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    cpu: int = 8
    memory: str = "32Gi"
    gpus: int = 0
    product: str = "NVIDIA-H100-80GB-HBM3"
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()
    pods: int = 110

    def manifest(self, now: str) -> Object:
        """The Node object; one with GPUs is labelled as NVIDIA's feature discovery labels it."""
        room = {"cpu": str(self.cpu), "memory": self.memory, "pods": str(self.pods), "ephemeral-storage": "100Gi"}
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        if self.gpus:
            room["nvidia.com/gpu"] = str(self.gpus)
            labels |= {"nvidia.com/gpu.product": self.product, "nvidia.com/gpu.count": str(self.gpus)}
            labels |= {"nvidia.com/gpu.present": "true"}
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "kubelet is posting ready status",
        }
        return {
            "metadata": {"name": self.name, "labels": labels | self.labels},
            "spec": {"taints": [dict(t) for t in self.taints]} if self.taints else {},
            "status": {
                "capacity": room,
                "allocatable": dict(room),
                "conditions": [ready | {"lastHeartbeatTime": now, "lastTransitionTime": now}],
                "addresses": [
                    {"type": "InternalIP", "address": "127.0.0.1"},
                    {"type": "Hostname", "address": self.name},
                ],
            },
        }


class NodeLifecycle:
    """What the node controller and the taint manager do; called by the test's hand under the store's lock."""

    def __init__(self, registry: Registry, timers: Timers, kubelet: Kubelet) -> None:
        self._registry = registry
        self._store = registry.store
        self._timers = timers
        self._kubelet = kubelet
        self._events = Recorder(registry.store, "node-controller")
        self._taints = Recorder(registry.store, "taint-eviction-controller")

    def lose(self, name: str, *, gone: bool) -> None:
        """The machine is off. `gone`: its cloud has removed the Node object too, else only its heartbeat stops."""
        self._store.get(NODES, ("", name))
        self._kubelet.lose(name)
        if gone:
            self._registry.delete(NODES, ("", name), DeleteOptions())
        else:
            self._timers.after(_MONITOR_GRACE, lambda: self._unreachable(name))

    def restore(self, node: Node) -> None:
        if self._store.find(NODES, ("", node.name)) is None:
            self._registry.add(NODES, "", node.manifest(stamp(self._store.clock.now())))
        else:
            fresh = node.manifest(stamp(self._store.clock.now()))

            def heal(data: Object) -> None:
                data["status"]["conditions"] = fresh["status"]["conditions"]
                data["spec"]["taints"] = fresh["spec"].get("taints", [])

            self._store.change(NODES, ("", node.name), heal)
        self._kubelet.restore(node.name)

    def _unreachable(self, name: str) -> None:
        if name not in self._kubelet.lost or self._store.find(NODES, ("", name)) is None:
            return
        now = self._store.clock.now()

        def taint(data: Object) -> None:
            text = "Kubelet stopped posting node status."
            conditions.put(data["status"], "Ready", "Unknown", now, "NodeStatusUnknown", text)
            effects = [{"key": _UNREACHABLE, "effect": e, "timeAdded": stamp(now)} for e in ("NoSchedule", "NoExecute")]
            data["spec"]["taints"] = [*data["spec"].get("taints", []), *effects]

        self._store.change(NODES, ("", name), taint)
        for pod in [p for p in self._store.all(PODS) if p["spec"].get("nodeName") == name]:
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                continue
            key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
            self._store.change(PODS, key, lambda data: conditions.put(data["status"], "Ready", "False", now))
            self._events.warning(pod, "NodeNotReady", "Node is not ready")
            seconds = _patience(pod)
            if seconds is not None:
                self._timers.after(seconds, functools.partial(self._evict, name, key, pod["metadata"]["uid"]))

    def _evict(self, node: str, key: Key, uid: str) -> None:
        pod = self._store.find(PODS, key)
        if pod is None or pod["metadata"]["uid"] != uid or node not in self._kubelet.lost:
            return
        self._taints.normal(pod, "TaintManagerEviction", f"Marking for deletion Pod {key[0]}/{key[1]}")
        disrupt(self._registry, key, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")


def disrupt(registry: Registry, key: Key, reason: str, message: str) -> None:
    """Marks a pod as a disruption's target and deletes it with its grace."""
    now = registry.store.clock.now()
    registry.store.change(
        PODS, key, lambda data: conditions.put(data["status"], "DisruptionTarget", "True", now, reason, message)
    )
    registry.delete(PODS, key, DeleteOptions())


def _patience(pod: Object) -> float | None:
    """Seconds that a pod stays on an unreachable node; None: for ever."""
    taint = {"key": _UNREACHABLE, "effect": "NoExecute"}
    tolerations = [t for t in pod["spec"].get("tolerations", []) if tolerates([t], taint)]
    if not tolerations:
        return 0.0
    limits = [t["tolerationSeconds"] for t in tolerations if "tolerationSeconds" in t]
    return float(min(limits)) if limits else None
