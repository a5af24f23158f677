from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import given
from tests.cluster.given import GivenCluster
from tests.cluster.server import Node, TestCluster
from tests.cluster.world import FIXTURE, World


@pytest.fixture(autouse=True)
def _room_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FIXTURE))


@pytest.fixture
def cluster() -> Iterator[TestCluster | GivenCluster]:
    """The one that is given, or one of four nodes whose back-off is short, for it lives in real time."""
    if given.VARIABLE in os.environ:
        outside = GivenCluster(Path(os.environ[given.VARIABLE]))
        outside.clear()
        yield outside
        outside.clear()
        return
    nodes = [Node(f"node-{name}", gpus=8) for name in "abcd"]
    with TestCluster(nodes=nodes, backoff=0.2) as running:
        yield running


@pytest.fixture
def world(cluster: TestCluster, tmp_path: Path) -> World:
    return World(tmp_path, cluster.kubeconfig(tmp_path / "kubeconfig"))
