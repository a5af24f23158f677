"""The proxy's faults, as the official client meets them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from tests.cluster.conformance.client import Api, job
from tests.cluster.proxy import Proxy
from tests.cluster.server import TestCluster

pytestmark = pytest.mark.integration


@pytest.fixture
def proxy(cluster: TestCluster, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(cluster.kubeconfig(tmp_path / "direct")) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: Proxy, tmp_path: Path) -> Api:
    """A client without retries of its own, as every fault shall be seen."""
    api = Api(proxy.kubeconfig(tmp_path / "proxied"), "backdrop")
    api.core.api_client.configuration.retries = False
    api.core.api_client.rest_client.pool_manager.connection_pool_kw["retries"] = False
    return api


def test_without_faults_all_goes_through(through: Api, cluster: TestCluster) -> None:
    through.create(job(suspend=True))
    event = next(watch.Watch().stream(through.batch.list_namespaced_job, "backdrop"))
    assert event["object"].metadata.name == "train"
    assert cluster.requests[0].agent.startswith("OpenAPI-Generator/")


@pytest.mark.parametrize("code", [500, 429])
def test_an_answer_with_a_code(through: Api, proxy: Proxy, cluster: TestCluster, code: int) -> None:
    proxy.fail(2, code)
    for _ in range(2):
        with pytest.raises(ApiException) as caught:
            through.pods()
        assert caught.value.status == code
    assert not through.pods()
    assert (proxy.faults, proxy.left, len(cluster.requests)) == (2, 0, 1)


@pytest.mark.parametrize("kind", ["reset", "timeout"])
def test_no_answer(through: Api, proxy: Proxy, cluster: TestCluster, kind: Any) -> None:
    proxy.fail(1, kind, hold=0.2)
    with pytest.raises(urllib3.exceptions.HTTPError):
        through.pods()
    assert not through.pods()
    assert len(cluster.requests) == 1


def test_a_timeout_ends_when_its_client_gives_up(through: Api, proxy: Proxy) -> None:
    proxy.fail(1, "timeout", hold=60)
    begun = time.monotonic()
    with pytest.raises(urllib3.exceptions.HTTPError):
        through.pods(_request_timeout=0.2)
    assert time.monotonic() - begun < 5


def test_a_lost_answer_has_had_its_effect(through: Api, proxy: Proxy) -> None:
    proxy.fail(1, "lost", lambda method, path: method == "POST")
    assert not through.pods()
    with pytest.raises(urllib3.exceptions.HTTPError):
        through.create(job(suspend=True))
    with pytest.raises(ApiException) as caught:
        through.create(job(suspend=True))
    assert caught.value.status == 409


def test_down_and_up_again(through: Api, proxy: Proxy) -> None:
    seen: list[str] = []

    def follow() -> None:
        try:
            for event in watch.Watch().stream(through.batch.list_namespaced_job, "backdrop"):
                seen.append(event["type"])
        except urllib3.exceptions.HTTPError:
            seen.append("broken")

    through.create(job(suspend=True))
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    while not seen:
        time.sleep(0.01)
    proxy.down()
    follower.join(5)
    assert seen == ["ADDED", "broken"]
    for _ in range(2):
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            through.pods()
        assert "refused" in str(caught.value)
    proxy.up()
    assert through.job().metadata.name == "train"
