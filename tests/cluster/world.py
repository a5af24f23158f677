"""One orchestrator after the other on a cluster, in this process or in one that can be killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from infra.files import sha256_bytes
from infra.jobs.events import Event
from infra.jobs.kubernetes.api import RealClock
from infra.jobs.kubernetes.launcher import KubernetesLauncher
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.jobs.spec import JobResult, JobSpec
from infra.object_store import ObjectStore, open_store
from infra.settings import REPOSITORY
from tests.cluster import given
from tests.cluster.server import PodRun

FIXTURE = REPOSITORY / "tests" / "infra" / "jobs_fixture"
PACE = 50
"""Seconds of the launcher's per real second: what it waits for is over that much sooner."""


class Hurried(RealClock):
    """Real time, lived faster."""

    def __init__(self, pace: float = PACE) -> None:
        self._pace = pace

    def monotonic(self) -> float:
        return time.monotonic() * self._pace

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self._pace)


@dataclass
class World:
    """Where a launcher lives: a folder with a store, a Dagster instance and a kubeconfig."""

    folder: Path
    kubeconfig: Path
    given: dict[str, Any] = field(default_factory=dict)  # over the cluster's settings
    clock: Any = None

    def __post_init__(self) -> None:
        given_store = os.environ.get("BACKDROP_TEST_STORE")
        self.store = open_store(f"{given_store}/{self.folder.name}" if given_store else str(self.folder / "store"))
        (self.folder / "dagster").mkdir(parents=True, exist_ok=True)
        self.instance = dg.DagsterInstance.local_temp(str(self.folder / "dagster"), {"telemetry": {"enabled": False}})

    @property
    def settings(self) -> ClusterSettings:
        return ClusterSettings.model_validate(
            {
                "image": "registry.example/backdrop:test",
                "command": (sys.executable,),
                "service_account": "default",
                "env": {
                    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(FIXTURE)]),
                    "BACKDROP_STATE": str(self.folder / "pods"),
                    "HOME": str(self.folder),
                },
                **given.settings(),
                "default": {"cpu": "10m", "memory": "64Mi", "shm": "1Mi", "scratch": "1Mi", "grace_s": 5},
                **self.given,
            }
        )

    def launcher(self) -> KubernetesLauncher:
        return KubernetesLauncher(
            self.settings, self.store.uri, kubeconfig=self.kubeconfig, clock=self.clock or Hurried()
        )

    def launch(
        self,
        spec: JobSpec,
        verb: str,
        key: str = "made",
        launcher: KubernetesLauncher | None = None,
        on_event: Callable[[Event], None] | None = None,
        room: str = "fixture_room",
        **more: Any,
    ) -> JobResult:
        """One materialisation of an asset that runs the job; the job's own error is what is raised."""
        results: list[JobResult] = []

        @dg.asset(name=key)
        def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            results.append(
                (launcher or self.launcher()).run(
                    context=context, room=room, verb=verb, spec=spec, key=key, on_event=on_event, **more
                )
            )
            return dg.MaterializeResult(metadata=results[0].metadata)

        dg.materialize([made], instance=self.instance)
        return results[0]

    def orchestrate(self, spec: JobSpec, verb: str, slices: int | None = None, pace: float = PACE) -> "Orchestrator":
        """The same in a process of its own."""
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(json.loads(self.settings.model_dump_json())))
        told = {
            "folder": str(self.folder),
            "kubeconfig": str(self.kubeconfig),
            "verb": verb,
            "spec": spec.model_dump(),
            "slices": slices,
            "pace": pace,
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(FIXTURE)])}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.orchestrate", type(spec).__name__, json.dumps(told)],
            cwd=REPOSITORY,
            env=environment,
        )
        return Orchestrator(self, process)

    def starts(self, spec: JobSpec) -> list[str]:
        return [key.rpartition("/")[2].split("-", 1)[1] for key in self.store.list(f"{spec.output}/starts/")]

    def observed(self, key: str = "made") -> list[dict[str, Any]]:
        """What the asset's page was told of its job, oldest first."""
        records = self.instance.fetch_observations(dg.AssetKey(key), limit=100).records
        found = [record.asset_observation for record in reversed(records)]
        return [{name: value.value for name, value in one.metadata.items()} for one in found if one is not None]


@dataclass
class Orchestrator:
    """A run worker."""

    world: World
    process: subprocess.Popen[bytes]

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def run(self) -> dg.DagsterRun:
        return self.world.instance.get_runs(limit=1)[0]


def report(store: ObjectStore, pod: PodRun) -> int:
    """What a job does that only reports a result, without a process of its own."""
    name = pod["metadata"]["labels"]["backdrop/asset"]
    prefix = f"messages/{name}/{pod['metadata']['labels']['backdrop/launch']}/0/{time.time_ns():020d}-1"
    result = JobResult().model_dump_json().encode()
    store.put("made/it/result.json", result)
    payload = {"kind": "result", "key": "made/it/result.json", "sha256": sha256_bytes(result)}
    message = {"method": "report_custom_message", "params": {"payload": payload}, "n": 1}
    store.put(f"{prefix}/00000001.jsonl", json.dumps(message).encode() + b"\n")
    return 0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return found
