"""The test cluster: its parts put together, and what a test can do to it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.cluster.clock import Clock, FakeClock
from tests.cluster.server.admission import Accounts, Quotas, Webhook, Webhooks
from tests.cluster.server.api import Front
from tests.cluster.server.controllers import Manager, Timers
from tests.cluster.server.garbage import EventsLifetime, GarbageCollector, PodCollector, TimeToLive
from tests.cluster.server.images import Command, Settings
from tests.cluster.server.job_controller import JobController
from tests.cluster.server.kubeconfig import Tokens
from tests.cluster.server.kubelet import Kubelet
from tests.cluster.server.kueue import Kueue
from tests.cluster.server.lists import Lists
from tests.cluster.server.nodes import Node, NodeLifecycle, disrupt
from tests.cluster.server.objects import Object, Store, clone, stamp
from tests.cluster.server.pods import PodParts
from tests.cluster.server.rbac import Authorizer, Rights
from tests.cluster.server.registry import Registry
from tests.cluster.server.resources import (
    ACCOUNTS,
    LOCAL_QUEUES,
    NAMESPACES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    QUOTAS,
    resource,
)
from tests.cluster.server.scheduler import Scheduler
from tests.cluster.server.watching import Watches

_WATCH_PATIENCE = 0.2  # real seconds
REPOSITORY = Path(__file__).resolve().parents[3]


class Request(NamedTuple):
    """One HTTP request that the API server got."""

    time: float  # by the cluster's clock, monotonic
    method: str
    path: str  # without its query
    agent: str


class TestCluster:
    """A cluster in this process, from `with` to its end. Its time is `clock`'s, save where it says real seconds.

    `command` is what every pod runs instead of its own: an argv, or a function of the pod that returns an exit code.
    `env` is laid over every container's environment. `backoff` is the job controller's first back-off in seconds.
    """

    __test__ = False  # to pytest a class with this name is a test

    def __init__(
        self,
        clock: Clock | None = None,
        nodes: Sequence[Node] = (Node("node-a", gpus=8),),
        command: Command | None = None,
        *,
        namespace: str = "backdrop",
        env: dict[str, str] | None = None,
        accounts: Iterable[str] = ("default",),
        queues: Iterable[str] = (),
        priorities: dict[str, int] | None = None,
        backoff: float = 10.0,
        pull_seconds: float = 0.0,
    ) -> None:
        self.clock = clock or Clock()
        self.namespace = namespace
        self.requests: list[Request] = []
        self.store = Store(self.clock)
        self.registry = Registry(self.store)
        self._folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.settings = Settings(REPOSITORY, self._folder, command, dict(env or {}), pull_seconds=pull_seconds)
        self._nodes = {n.name: n for n in nodes}
        self._timers = Timers(self.store)
        self._manager = Manager(self.store, self._timers)
        self.kubelet = Kubelet(self.registry, self._timers, self.settings)
        self._lifecycle = NodeLifecycle(self.registry, self._timers, self.kubelet)
        self.kueue = Kueue(self.registry)
        self._webhooks = Webhooks()
        quotas = Quotas(self.store)
        self.registry.admission += [self.kueue, Accounts(self.store), self._webhooks, quotas]
        self._manager.controllers = [
            JobController(self.registry, self._timers, backoff),
            Scheduler(self.store),
            self.kubelet,
            GarbageCollector(self.registry),
            PodCollector(self.registry),
            TimeToLive(self.registry, self._timers),
            EventsLifetime(self.store, self._timers),
            self.kueue,
            quotas,
        ]
        self.watches = Watches(self.store)
        self.lists = Lists(self.store)
        self.pods = PodParts(self.registry, self.kubelet)
        self.authorizer = Authorizer(f"system:serviceaccount:{namespace}:default")
        self._front = Front(self)
        self._tokens = Tokens(self._front.url, namespace)
        self.authenticate = self._tokens.valid
        self._closing = threading.Event()
        self._furnish(accounts, queues, priorities or {})

    def _furnish(self, accounts: Iterable[str], queues: Iterable[str], priorities: dict[str, int]) -> None:
        for name in ("default", "kube-system", self.namespace):
            self.registry.add(NAMESPACES, "", {"metadata": {"name": name}, "status": {"phase": "Active"}})
        for name in {"default", *accounts}:
            self.registry.add(ACCOUNTS, self.namespace, {"metadata": {"name": name}})
        for node in self._nodes.values():
            self.registry.add(NODES, "", node.manifest(stamp(self.clock.now())))
        for name, value in priorities.items():
            self.registry.add(PRIORITY_CLASSES, "", {"metadata": {"name": name}, "value": value})
        for name in queues:
            queue = {"metadata": {"name": name}, "spec": {"clusterQueue": name}}
            self.registry.add(LOCAL_QUEUES, self.namespace, queue)

    # ---- its life
    def __enter__(self) -> TestCluster:
        self._manager.start()
        self._front.start()
        if isinstance(self.clock, FakeClock):
            self.clock.settle.append(self.settle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self.clock, FakeClock):
            self.clock.settle.remove(self.settle)
        self._manager.close()
        with self.store.lock:
            self.kubelet.close()
        self.watches.end()
        self._front.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def settle(self, patience: float = 60.0) -> None:
        """Waits until the controllers have nothing to do before the clock goes on or a pod ends; raises TimeoutError
        after `patience` real seconds."""
        begun = time.monotonic()
        while time.monotonic() < begun + patience:
            # A watch whose client does not read cannot be waited for.
            told = self.watches.quiet() or time.monotonic() > begun + _WATCH_PATIENCE
            with self.store.lock:
                if told and self._manager.quiet() and not self.kubelet.settling():
                    return
            time.sleep(0.001)
        raise TimeoutError(f"the controllers did not come to rest in {patience:g} s")

    def wait_until(self, holds: Callable[[], Any], patience: float = 20.0) -> Any:
        """The first true value of a condition, looked at every few real milliseconds; raises TimeoutError."""
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            found = holds()
            if found:
                return found
            time.sleep(0.01)
        raise TimeoutError(f"not within {patience:g} s")

    # ---- how it is reached
    @property
    def url(self) -> str:
        return self._front.url

    def kubeconfig(self, path: Path, url: str | None = None) -> Path:
        """Writes a kubeconfig with a token file beside it; `url` is another way to this server, as a proxy's."""
        return self._tokens.kubeconfig(path, url or self.url)

    def note(self, method: str, path: str, agent: str) -> None:
        self.requests.append(Request(self.clock.monotonic(), method, path, agent))

    # ---- what is in it
    def get(self, plural: str, name: str, group: str = "") -> Object:
        """A copy of an object in the cluster's namespace, or of one that has none."""
        found = resource(plural, group)
        return clone(self.store.get(found, (self.namespace if found.namespaced else "", name)))

    def list(self, plural: str, group: str = "", labels: dict[str, str] | None = None) -> list[Object]:
        """Copies of all objects of a kind in the cluster's namespace, in the order of their names."""
        found = resource(plural, group)
        with self.store.lock:
            stored = self.store.select(found, self.namespace if found.namespaced else "", (labels or {}).items())
        return [clone(s.data) for s in stored]

    def create(self, plural: str, data: Object, group: str = "") -> Object:
        """Creates an object as its administrator would."""
        found = resource(plural, group)
        with self.store.lock:
            return clone(self.registry.add(found, self.namespace if found.namespaced else "", clone(data)))

    # ---- what happens to it
    def evict(
        self, pod_name: str, message: str = "The node was low on resource: memory. ", grace: float | None = None
    ) -> None:
        """Node pressure: the pod ends, with its grace unless another is given, and fails with reason Evicted."""
        with self.store.lock:
            pod = self.store.get(PODS, (self.namespace, pod_name))
            own = float(pod["spec"]["terminationGracePeriodSeconds"])
            self.kubelet.evict(pod, message, own if grace is None else grace)
        self._manager.wake()

    def replace(
        self, pod_name: str, reason: str = "EvictionByEvictionAPI", message: str = "Eviction API: evicting"
    ) -> None:
        """A disruption: DisruptionTarget, then a deletion with the pod's grace."""
        with self.store.lock:
            disrupt(self.registry, (self.namespace, pod_name), reason, message)

    def lose_node(self, name: str, *, gone: bool = False) -> None:
        """The machine is off. Its pods notice nothing for 40 s, and are deleted after what they tolerate (300 s), but
        stay Terminating until the node is back; `gone`: the cloud has removed the Node too, and they fail at once."""
        with self.store.lock:
            self._lifecycle.lose(name, gone=gone)
        self._manager.wake()

    def restore_node(self, name: str) -> None:
        """The machine boots: what ran there has ended."""
        with self.store.lock:
            self._lifecycle.restore(self._nodes[name])
        self._manager.wake()

    def set_quota(self, pods: int | None = None, gpus: int | None = None) -> None:
        """The namespace's ResourceQuota `quota`; without numbers, none any more."""
        hard = {"pods": pods, "requests.nvidia.com/gpu": gpus}
        spec = {"hard": {k: str(v) for k, v in hard.items() if v is not None}}
        with self.store.lock:
            if self.store.find(QUOTAS, (self.namespace, "quota")):
                self.store.remove(QUOTAS, (self.namespace, "quota"))
            if spec["hard"]:
                self.registry.add(QUOTAS, self.namespace, {"metadata": {"name": "quota"}, "spec": spec})

    def refuse(self, hook: Webhook | None, name: str = "validate.policy.example.com", code: int = 403) -> None:
        """A validating webhook: the text it returns for a new object refuses it. None takes all webhooks away."""
        self._webhooks.hooks = [] if hook is None else [*self._webhooks.hooks, (name, hook, code)]

    @property
    def unpullable(self) -> set[str]:
        """Images that no node can pull."""
        return self.settings.unpullable

    @property
    def command(self) -> Command | None:
        return self.settings.command

    @command.setter
    def command(self, command: Command | None) -> None:
        self.settings.command = command

    def admit(self, job_name: str) -> None:
        """Kueue admits the job; one without a queue's label is only no longer suspended."""
        with self.store.lock:
            self.kueue.admit((self.namespace, job_name))

    def preempt(self, job_name: str) -> None:
        """Kueue takes the job's place away; one without a queue's label is only suspended."""
        with self.store.lock:
            self.kueue.preempt((self.namespace, job_name))

    @property
    def rights(self) -> Rights | None:
        """What clients may do, as (group, resource or resource/part, verb); None: everything."""
        return self.authorizer.rights

    @rights.setter
    def rights(self, rights: Rights | None) -> None:
        self.authorizer.rights = rights

    def expire_tokens(self) -> None:
        """The token so far is worth nothing; every token file gets a new one."""
        self._tokens.expire()

    def compact(self) -> None:
        """Forgets the past: a watch or a page from there gets 410. Watches that run go on."""
        self.store.compact()
