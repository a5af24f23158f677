"""An API server that fails, stays away or renews its tokens, between the launcher and the cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BackdropError
from infra.jobs.kubernetes.api import Refused
from infra.jobs.spec import JobResult
from tests.cluster.proxy import Proxy
from tests.cluster.server import TestCluster
from tests.cluster.world import PACE, World, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def proxy(cluster: TestCluster, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(cluster.kubeconfig(tmp_path / "direct")) as between:
        yield between


@pytest.fixture
def world(proxy: Proxy, tmp_path: Path) -> World:
    return World(tmp_path, proxy.kubeconfig(tmp_path / "kubeconfig"))


def tally(world: World, **values: Any) -> Any:
    from fixture_room.specs import TallySpec

    return TallySpec(store=world.store.uri, output="made/tally", **values)


def in_thread(world: World, spec: Any) -> tuple[threading.Thread, list[JobResult]]:
    done: list[JobResult] = []
    thread = threading.Thread(target=lambda: done.append(world.launch(spec, "tally")), daemon=True)
    thread.start()
    return thread, done


def test_fifty_errors_in_a_row_end_nothing(
    cluster: TestCluster, proxy: Proxy, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.jobs.kubernetes.connection.READ_S", 0.2)
    spec = tally(world, steps=150, pause_s=0.1)
    thread, done = in_thread(world, spec)
    wait_for(lambda: world.starts(spec), "the job's start")
    kinds: list[Any] = [500, 429, "reset", "timeout", 503]
    for kind in kinds:
        proxy.fail(10, kind)
    wait_for(lambda: proxy.faults >= 50, "fifty faults", 90)
    thread.join(60)
    assert done[0].data["first"] == 0
    assert world.starts(spec) == ["0-from-0"]
    assert [job["status"]["succeeded"] for job in cluster.list("jobs", "batch")] == [1]


@pytest.mark.parametrize("kind", [500, "lost"])
def test_a_create_whose_answer_is_lost_makes_one_job(
    cluster: TestCluster, proxy: Proxy, world: World, kind: Any
) -> None:
    proxy.fail(3, kind, lambda method, path: method == "POST" and path.partition("?")[0].endswith("/jobs"))
    world.launch(tally(world), "tally")
    assert proxy.faults == 3
    assert len(cluster.list("jobs", "batch")) == 1


def test_an_api_server_that_is_away_for_ten_minutes_costs_nothing(
    cluster: TestCluster, proxy: Proxy, world: World
) -> None:
    spec = tally(world, steps=100, pause_s=0.1)
    thread, done = in_thread(world, spec)
    wait_for(lambda: world.starts(spec), "the job's start")
    proxy.down()
    time.sleep(600 / PACE)
    proxy.up()
    thread.join(60)
    assert done[0].metadata["steps"] == 100
    assert world.starts(spec) == ["0-from-0"]


def test_a_token_that_expires_is_read_again(cluster: TestCluster, world: World) -> None:
    spec = tally(world, steps=60, pause_s=0.1)
    thread, done = in_thread(world, spec)
    wait_for(lambda: world.starts(spec), "the job's start")
    cluster.expire_tokens()
    thread.join(60)
    assert len(done) == 1


@pytest.mark.parametrize(
    ("missing", "named"),
    [(("batch", "jobs", "create"), "create jobs"), (("", "pods", "list"), "list pods"), (("", "events", "list"), None)],
)
def test_a_right_that_is_missing_is_named(
    cluster: TestCluster, world: World, missing: tuple[str, str, str], named: str | None
) -> None:
    everything = {("batch", "jobs", verb) for verb in ("create", "get", "list", "patch", "delete")} | {
        ("", "services", "create"),
        ("", "pods", "list"),
        ("", "pods", "delete"),
        ("", "events", "list"),
    }
    cluster.rights = everything
    world.launch(tally(world), "tally", "allowed")
    cluster.rights = everything - {missing}
    if named is None:
        world.launch(tally(world), "tally", "refused")  # events only explain
        return
    with pytest.raises(BackdropError, match=f"does not allow to {named}") as refused:
        world.launch(tally(world), "tally", "refused")
    assert isinstance(refused.value, Refused)
    assert "rbac.yaml" in refused.value.remedy
