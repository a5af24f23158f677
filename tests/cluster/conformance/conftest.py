"""A cluster on a clock that stands, and the official client before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.clock import FakeClock
from tests.cluster.conformance.client import Api
from tests.cluster.server import Node, TestCluster


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cluster(clock: FakeClock) -> Iterator[TestCluster]:
    """Two nodes with eight GPUs each."""
    with TestCluster(clock, [Node("node-a", gpus=8), Node("node-b", gpus=8)], priorities={"high": 1000}) as cluster:
        yield cluster


@pytest.fixture
def api(cluster: TestCluster, tmp_path: Path) -> Api:
    return Api(cluster.kubeconfig(tmp_path / "kubeconfig"), cluster.namespace)
