"""What the kubelet remembers of a pod, and how the pod gets its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.server.controllers import Timers
from tests.cluster.server.events import Recorder
from tests.cluster.server.objects import Key, Object
from tests.cluster.server.pod_status import Container
from tests.cluster.server.processes import PodRun, Program

Command = Sequence[str] | Callable[[PodRun], int | None]
_FIRST_PULL, _LONGEST_PULL = 10.0, 300.0  # the back-off of an image that cannot be pulled


@dataclass
class Settings:
    """What the nodes of this cluster do with a pod. The test may change it at any time."""

    directory: Path  # where processes run
    logs: Path  # one file per container
    command: Command | None = None  # what every pod runs instead of its own command
    env: dict[str, str] = field(default_factory=dict)  # laid over every container's environment
    unpullable: set[str] = field(default_factory=set)
    pull_seconds: float = 0.0


@dataclass
class KubeletPod:
    """One pod on a node."""

    key: Key
    pod: Object
    address: str
    init: list[Container]
    containers: list[Container]
    programs: dict[str, Program] = field(default_factory=dict)
    pulling: bool = False
    failed_pulls: int = 0
    stopping: bool = False
    evicted: str = ""  # the message of an eviction by the node

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    done: bool = False  # it has ended, or nobody asks for it any more


class Images:
    """Pulls a pod's images, then calls `start`; what it finds out it writes with `write`."""

    def __init__(
        self,
        timers: Timers,
        settings: Settings,
        events: Recorder,
        write: Callable[[KubeletPod], None],
        start: Callable[[KubeletPod], None],
    ) -> None:
        self._timers, self._settings, self._events = timers, settings, events
        self._write, self._start = write, start

    def pull(self, known: KubeletPod) -> None:
        if known.done or known.stopping:
            return
        containers = [*known.init, *known.containers]
        seconds = self._settings.pull_seconds
        bad = next((c for c in containers if c.image in self._settings.unpullable), None)
        if bad is not None:
            self._fail(known, bad)
        elif seconds and not known.pulling:
            known.pulling = True
            for container in containers:
                self._events.normal(known.pod, "Pulling", f'Pulling image "{container.image}"')
            self._write(known)
            self._timers.after(seconds, lambda: self.pull(known))
        else:
            took = f"{seconds:g}s ({seconds:g}s including waiting)"
            for container in containers:
                text = f'Container image "{container.image}" already present on machine'
                if known.pulling or known.failed_pulls:
                    text = f'Successfully pulled image "{container.image}" in {took}. Image size: 0 bytes.'
                self._events.normal(known.pod, "Pulled", text)
            self._start(known)

    def _fail(self, known: KubeletPod, container: Container) -> None:
        image = container.image
        reason = (
            f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": '
            "pull access denied, repository does not exist or may require authorization"
        )
        container.reason, container.message = "ErrImagePull", reason
        wait = min(_FIRST_PULL * 2**known.failed_pulls, _LONGEST_PULL)
        known.failed_pulls += 1
        self._events.normal(known.pod, "Pulling", f'Pulling image "{image}"')
        self._events.warning(known.pod, "Failed", f'Failed to pull image "{image}": {reason}')
        self._events.warning(known.pod, "Failed", "Error: ErrImagePull")
        self._write(known)

        def back_off() -> None:
            if not known.done and container.reason == "ErrImagePull":
                container.reason = "ImagePullBackOff"
                container.message = f'Back-off pulling image "{image}": ErrImagePull: {reason}'
                self._events.normal(known.pod, "BackOff", f'Back-off pulling image "{image}"')
                self._events.warning(known.pod, "Failed", "Error: ImagePullBackOff")
                self._write(known)

        self._timers.after(2.0, back_off)
        self._timers.after(wait, lambda: self.pull(known))
