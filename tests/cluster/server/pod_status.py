"""A pod's status as the kubelet writes it, from what it knows of the containers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from tests.cluster.server import conditions
from tests.cluster.server.objects import Object, stamp

NOT_FOUND_CODE = 137  # of a container that was gone before it could say how it ended


@dataclass
class Container:
    """What the kubelet knows of one container."""

    name: str
    image: str
    state: str = "waiting"  # waiting, running, terminated
    reason: str = "ContainerCreating"
    message: str = ""
    exit_code: int = 0
    started: datetime | None = None
    finished: datetime | None = None

    def end(self, code: int, now: datetime, reason: str = "", message: str = "") -> None:
        self.state, self.exit_code, self.finished = "terminated", code, now
        self.reason, self.message = reason or ("Error" if code else "Completed"), message


def write_containers(status: Object, containers: list[Container], init: list[Container], now: datetime) -> None:
    """Container statuses, conditions and phase, into a status that the caller owns."""
    if init:
        status["initContainerStatuses"] = [_container(c) for c in init]
    status["containerStatuses"] = [_container(c) for c in containers]
    initialized = all(c.state == "terminated" and not c.exit_code for c in init)
    conditions.put(status, "Initialized", "True" if initialized else "False", now)
    unready = [c.name for c in containers if c.state != "running"]
    ended = bool(containers) and all(c.state == "terminated" for c in containers)
    broken = any(c.state == "terminated" and c.exit_code for c in init)
    if ended or broken:
        status["phase"] = "Failed" if broken or any(c.exit_code for c in containers) else "Succeeded"
    elif any(c.state != "waiting" for c in containers):
        status["phase"] = "Running"
    if status["phase"] in ("Succeeded", "Failed"):
        reason, message = ("PodCompleted" if status["phase"] == "Succeeded" else "PodFailed"), ""
    else:
        reason, message = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    for kind in ("Ready", "ContainersReady"):
        if unready:
            conditions.put(status, kind, "False", now, reason, message)
        else:
            conditions.put(status, kind, "True", now)


def _container(container: Container) -> Object:
    identity = f"containerd://{hashlib.sha256(f'{container.name} {container.started}'.encode()).hexdigest()}"
    running = container.state == "running"
    status: Object = {
        "name": container.name,
        "image": container.image,
        "imageID": container.image if container.started else "",
        "ready": running,
        "started": running,
        "restartCount": 0,
        "lastState": {},
    }
    if container.started:
        status["containerID"] = identity
    if container.state == "waiting":
        said = {"message": container.message} if container.message else {}
        return status | {"state": {"waiting": {"reason": container.reason} | said}}
    started = {"startedAt": stamp(container.started)} if container.started else {}
    if running:
        return status | {"state": {"running": started}}
    assert container.finished is not None
    ended: Object = {"exitCode": container.exit_code, "reason": container.reason, **started}
    ended |= {"finishedAt": stamp(container.finished)} | ({"containerID": identity} if container.started else {})
    if container.message:
        ended["message"] = container.message
    return status | {"state": {"terminated": ended}}
