"""The kubelets of all nodes: pods as processes, from the image's pull to the exit code."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from tests.cluster.server import conditions
from tests.cluster.server.controllers import Timers
from tests.cluster.server.environment import ConfigError, Read, environment, expand, missing_volume
from tests.cluster.server.events import Recorder
from tests.cluster.server.images import Images, KubeletPod, Settings
from tests.cluster.server.objects import Change, Key, Object, stamp
from tests.cluster.server.pod_status import NOT_FOUND_CODE, Container, write_containers
from tests.cluster.server.processes import Function, PodRun, Process, Program, host_environment
from tests.cluster.server.registry import DeleteOptions, Registry
from tests.cluster.server.resources import PODS

Command = Sequence[str] | Callable[[PodRun], int | None]
_RETRY_CONFIG = 10.0  # seconds until a container whose configuration was missing is tried again


class Kubelet:
    """Runs what is bound to a node that is not lost."""

    def __init__(self, registry: Registry, timers: Timers, settings: Settings) -> None:
        self.settings = settings
        self._registry = registry
        self._store = registry.store
        self._timers = timers
        self._events = Recorder(registry.store, "kubelet")
        self._pods: dict[str, KubeletPod] = {}
        self._images = Images(timers, settings, self._events, self._write, self._start)
        self._ended: deque[tuple[str, str, Program, int]] = deque()
        self._addresses = 0
        self._lock = threading.Lock()
        self.lost: set[str] = set()  # nodes whose kubelet is away

    # ---- what is to be done
    def observe(self, change: Change) -> None:
        if change.resource != PODS:
            return
        data = change.new.data
        uid, node = data["metadata"]["uid"], data["spec"].get("nodeName")
        known = self._pods.get(uid)
        if change.kind == "DELETED":
            if known:
                self._forget(known)
        elif node and node not in self.lost and data["status"]["phase"] not in ("Succeeded", "Failed"):
            if known is None:
                if not self._stands(change.key, uid):  # this change is old: the pod has ended since
                    return
                known = self._pods[uid] = self._adopt(change.key, data)
                pulled = known
                self._timers.after(0, lambda: self._images.pull(pulled))
            known.pod = data
            if "deletionTimestamp" in data["metadata"]:
                self._stop(known, data["metadata"]["deletionGracePeriodSeconds"])

    def _stands(self, key: Key, uid: str) -> bool:
        pod = self._store.find(PODS, key)
        if pod is None or pod["metadata"]["uid"] != uid:
            return False
        return pod["status"]["phase"] not in ("Succeeded", "Failed")

    def step(self) -> None:
        while self._ended:
            uid, name, program, code = self._ended.popleft()
            known = self._pods.get(uid)
            if known is not None and known.programs.get(name) is program:
                self._container_ended(known, name, code)

    def settling(self) -> bool:
        """Whether ends wait to be noted, or functions have only just begun."""
        return bool(self._ended) or any(
            p.settling() for k in list(self._pods.values()) for p in list(k.programs.values())
        )

    def _adopt(self, key: Key, pod: Object) -> KubeletPod:
        self._addresses += 1
        high, low = divmod(self._addresses, 254)
        # Every 127/8 address can be bound on Linux: pods have addresses of their own.
        address = f"127.{1 + high // 256 % 254}.{high % 256}.{1 + low}"
        init = [
            Container(c["name"], c["image"], reason="PodInitializing") for c in pod["spec"].get("initContainers", [])
        ]
        return KubeletPod(
            key, pod, address, init, [Container(c["name"], c["image"]) for c in pod["spec"]["containers"]]
        )

    # ---- starting
    def _start(self, known: KubeletPod) -> None:
        """Starts the next init container, or all containers, once there is what they need."""
        if known.stopping or known.done:
            return
        missing = missing_volume(known.pod, self._reader(known))
        if missing:
            self._events.warning(known.pod, "FailedMount", missing)
            self._write(known)
            self._timers.after(_RETRY_CONFIG, lambda: self._start(known))
            return
        waiting = next((c for c in known.init if c.state != "terminated"), None)
        if waiting is not None and self.settings.command is not None:
            for container in known.init:  # a pod that runs another command needs no preparation
                container.started = container.started or self._now()
                container.end(0, self._now())
            waiting = None
        for container in known.containers if waiting is None else [waiting]:
            if container.state == "waiting" and not self._start_container(known, container):
                break
        if any(c.exit_code for c in known.init) or all(c.state == "terminated" for c in known.containers):
            self._finish(known)
        else:
            self._write(known)

    def _reader(self, known: KubeletPod) -> Read:
        return lambda resource, name: self._store.find(resource, (known.key[0], name))

    def _start_container(self, known: KubeletPod, container: Container) -> bool:
        spec = next(
            c
            for k in ("containers", "initContainers")
            for c in known.pod["spec"].get(k, [])
            if c["name"] == container.name
        )
        pod = known.pod | {"status": known.pod["status"] | _addresses(known)}
        try:
            variables = environment(pod, spec, self._reader(known))
        except ConfigError as error:
            container.reason, container.message = "CreateContainerConfigError", str(error)
            self._events.warning(known.pod, "Failed", f"Error: {error}")
            self._timers.after(_RETRY_CONFIG, lambda: self._start(known))
            return False
        hostname = known.pod["spec"].get("hostname", known.key[1])
        variables = host_environment() | {"HOSTNAME": hostname} | variables | self.settings.env
        container.started = self._now()
        try:
            known.programs[container.name] = self._program(known, container.name, spec, variables)
        except OSError as error:
            text = f"failed to create containerd task: OCI runtime create failed: exec: {error}"
            container.end(128, self._now(), "StartError", text)
            self._events.warning(known.pod, "Failed", f"Error: {text}")
            return True
        container.state, container.reason, container.message = "running", "", ""
        self._events.normal(known.pod, "Created", f"Created container: {container.name}")
        self._events.normal(known.pod, "Started", f"Started container {container.name}")
        return True

    def _program(self, known: KubeletPod, name: str, spec: Object, variables: dict[str, str]) -> Program:
        uid, command = known.uid, self.settings.command
        log = self.log_file(uid, name)
        log.parent.mkdir(parents=True, exist_ok=True)
        cell: list[Program] = []
        begun = threading.Event()

        def done(code: int) -> None:
            begun.wait()  # the program may end before it is known here
            with self._store.lock:
                self._ended.append((uid, name, cell[0], code))
                self._store.changed.notify_all()

        if callable(command):
            cell.append(Function(command, PodRun(known.pod, variables, log), done, self._store.clock))
        else:
            own = [expand(a, variables) for a in [*spec.get("command", []), *spec.get("args", [])]]
            argv = list(command) if command is not None else own
            if not argv:
                raise OSError("no command specified")
            directory = Path(spec.get("workingDir") or self.settings.directory)
            directory = directory if directory.is_dir() else self.settings.directory
            cell.append(Process(argv, variables, directory, log, done))
        begun.set()
        return cell[0]

    def log_file(self, uid: str, container: str) -> Path:
        return self.settings.logs / uid / f"{container}.log"

    # ---- ending
    def _container_ended(self, known: KubeletPod, name: str, code: int) -> None:
        container = next(c for c in [*known.init, *known.containers] if c.name == name)
        known.programs.pop(name, None)
        if container.state == "terminated":
            return
        spec = next(
            c for k in ("containers", "initContainers") for c in known.pod["spec"].get(k, []) if c["name"] == name
        )
        message = ""
        if code and spec["terminationMessagePolicy"] == "FallbackToLogsOnError":
            message = "\n".join(self.log_file(known.uid, name).read_text(errors="replace").splitlines()[-80:])[-2048:]
        container.end(code, self._now(), message=message)
        if container in known.init and not code and not known.stopping:
            self._start(known)
        elif container in known.init:
            for other in known.containers:
                other.reason = "PodInitializing"
            self._finish(known)
        elif all(c.state == "terminated" for c in known.containers):
            self._finish(known)
        else:
            self._write(known)

    def evict(self, pod: Object, message: str, grace: float) -> None:
        """Node pressure: the pod fails in its place, after its grace where it has processes."""
        known = self._pods.get(pod["metadata"]["uid"])
        if known is None:
            known = self._adopt((pod["metadata"]["namespace"], pod["metadata"]["name"]), pod)
        known.evicted = message
        self._events.warning(known.pod, "Evicted", message)
        self._stop(known, grace)

    def _stop(self, known: KubeletPod, grace: float) -> None:
        if not known.stopping:
            known.stopping = True
            for name, program in known.programs.items():
                self._events.normal(known.pod, "Killing", f"Stopping container {name}")
                program.terminate()
        if not known.programs:
            self._finish(known)
        else:
            self._timers.after(grace, lambda: _kill(known))

    def _finish(self, known: KubeletPod) -> None:
        """Writes the terminal phase; a pod whose deletion was asked for goes, once nobody holds it."""
        now = self._now()
        for container in known.containers:
            if container.state == "waiting" and known.stopping and not known.evicted:
                text = "The container could not be located when the pod was terminated"
                container.end(NOT_FOUND_CODE, now, "ContainerStatusUnknown", text)
        self._pods.pop(known.uid, None)
        known.done = True
        self._write(known, final=True)
        current = self._store.find(PODS, known.key)
        if (
            current is not None
            and "deletionTimestamp" in current["metadata"]
            and current["metadata"]["uid"] == known.uid
        ):
            self._registry.delete(PODS, known.key, DeleteOptions(grace=0))

    def _forget(self, known: KubeletPod) -> None:
        self._pods.pop(known.uid, None)
        known.done = True
        _kill(known)

    def lose(self, node: str) -> None:
        """Power off: what ran there is gone, and nobody says so."""
        self.lost.add(node)
        for known in [k for k in self._pods.values() if k.pod["spec"]["nodeName"] == node]:
            self._forget(known)

    def restore(self, node: str) -> None:
        """The node boots: its kubelet finds its pods' containers gone."""
        self.lost.discard(node)
        for pod in self._store.all(PODS):
            running = pod["status"]["phase"] not in ("Succeeded", "Failed")
            if pod["spec"].get("nodeName") == node and running:
                known = self._adopt((pod["metadata"]["namespace"], pod["metadata"]["name"]), pod)
                for container in known.containers:
                    container.end(255, self._now(), "Unknown")
                self._finish(known)

    def close(self) -> None:
        for known in list(self._pods.values()):
            self._forget(known)

    # ---- what the API shows
    def _now(self) -> datetime:
        return self._store.clock.now()

    def _write(self, known: KubeletPod, *, final: bool = False) -> None:
        now = self._now()

        def write(data: Object) -> None:
            status = data["status"]
            if any(c.state != "waiting" for c in [*known.init, *known.containers]) or not known.evicted:
                write_containers(status, known.containers, known.init, now)
            if known.evicted and final:
                status |= {"phase": "Failed", "reason": "Evicted", "message": known.evicted}
                conditions.put(status, "DisruptionTarget", "True", now, "TerminationByKubelet", known.evicted)
            elif final:
                status["phase"] = status["phase"] if status["phase"] == "Succeeded" else "Failed"
            status.setdefault("startTime", stamp(now))
            status |= _addresses(known)

        current = self._store.find(PODS, known.key)
        if current is not None and current["metadata"]["uid"] == known.uid:
            self._store.change(PODS, known.key, write)


def _kill(known: KubeletPod) -> None:
    for program in list(known.programs.values()):
        program.kill()


def _addresses(known: KubeletPod) -> Object:
    host = "127.0.0.1"
    return {"podIP": known.address, "podIPs": [{"ip": known.address}], "hostIP": host, "hostIPs": [{"ip": host}]}
