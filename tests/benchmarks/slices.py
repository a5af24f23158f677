"""Two thousand slices through the launcher, in a process of its own and in real time: its memory and its requests."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.benchmarks.promise import Promise
from tests.cluster.server import Node, PodRun, TestCluster
from tests.cluster.world import FIXTURE, World

COUNT = int(os.environ.get("BENCH_SLICES", "2000"))
SECONDS = 3.0  # that a slice takes


def promises() -> Iterator[Promise]:
    sys.path.insert(0, str(FIXTURE))
    from fixture_room.specs import PartSpec

    tried: Counter[int] = Counter()

    def run(pod: PodRun) -> int:
        tried[pod.index] += 1
        time.sleep(SECONDS)
        return 1 if pod.index % 100 == 7 and tried[pod.index] == 1 else 0

    with tempfile.TemporaryDirectory() as folder, TestCluster(nodes=_nodes(), command=run, backoff=1.0) as cluster:
        world = World(Path(folder), cluster.kubeconfig(Path(folder) / "kubeconfig"))
        world.given = {"default": {**world.settings.default.model_dump(), "cpu": "1m", "memory": "1Mi"}}
        spec = PartSpec(store=world.store.uri, output="made/parts")
        began = time.monotonic()
        worker = world.orchestrate(spec, "part", slices=COUNT, pace=1)
        peak = _Peak(worker.process.pid)
        code = worker.process.wait(600)
        seconds = time.monotonic() - began
        times = [one.time for one in cluster.requests if one.agent == "backdrop"]
    assert code == 0, f"the launcher ended with code {code}"
    assert sorted(tried) == list(range(COUNT))
    again = [index for index, times_run in tried.items() if times_run > 1]
    print(f"{COUNT} slices in {seconds:.0f} s; tried twice: {len(again)}; {len(times)} requests")
    assert sorted(again) == [k for k in range(COUNT) if k % 100 == 7]
    yield Promise("peak memory of the launcher, 2,000 slices", peak.stop() / 2**20, 300, "MB", at_least=False)
    yield Promise("API requests per second, over any ten seconds", _busiest(times), 5, at_least=False)


def _nodes() -> list[Node]:
    return [Node(f"node-{k}", cpu=64, gpus=0) for k in range(20)]


def _busiest(times: list[float], window: float = 10.0) -> float:
    """The most requests within any `window` seconds, per second."""
    ends = sorted(times)
    return max(sum(start <= one < start + window for one in ends) for start in ends) / window


class _Peak(threading.Thread):
    """The peak of a process's resident memory, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process, self._peak = psutil.Process(pid), 0
        self.start()

    def run(self) -> None:
        try:
            while True:
                self._peak = max(self._peak, self._process.memory_info().rss)
                time.sleep(0.05)
        except psutil.Error:
            return

    def stop(self) -> int:
        self.join(1)
        return self._peak
