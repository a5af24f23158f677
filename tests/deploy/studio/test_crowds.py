"""Many at once, clients that hang up, and promotions in the middle of it all, on the studio as a process."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from deploy.studio.limits import Limits
from tests.deploy.studio.conftest import Playing
from tests.deploy.studio.pictures import FILES, WORDS
from tests.deploy.studio.stage import Served

pytestmark = pytest.mark.integration


# ── crowds and hang-ups ───────────────────────────────────────────────────────────────────────────────────────────


def body_of(files: dict[str, bytes], data: dict[str, str], url: str) -> tuple[bytes, bytes]:
    """Head and body of a POST as bytes on the wire."""
    request = httpx.Request("POST", f"{url}/v1/background", files=files, data=data)
    body = request.read()
    head = f"POST /v1/background HTTP/1.1\r\nHost: {request.url.netloc.decode()}\r\n"
    head += f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode(), body


def test_clients_that_hang_up_leave_nothing_behind(playing: Playing, client: httpx.Client) -> None:
    head, body = body_of(FILES, WORDS, playing.studio.url)
    port = int(playing.studio.url.rpartition(":")[2])
    for share in (0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        with socket.create_connection(("127.0.0.1", port)) as wire:
            wire.sendall(head + body[: int(share * len(body))])
    deadline = time.monotonic() + 30
    while playing.studio.metric("studio_requests_inside") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert playing.studio.metric("studio_requests_inside") == 0
    assert playing.studio.metric("studio_queue_length") == 0
    assert playing.studio.metric("studio_hung_up_total") >= 2
    assert client.post("/v1/background", files=FILES, data=WORDS).status_code == 200


def test_sixty_four_clients_at_once(playing: Playing) -> None:
    together = threading.Barrier(64, timeout=60)

    def ask(number: int) -> tuple[int, str]:
        with playing.studio.client() as client:
            together.wait()
            answer = client.post("/v1/background", files=FILES, data={**WORDS, "seed": str(number)})
            return answer.status_code, answer.headers.get("retry-after", "")

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(64)))
    statuses = Counter(status for status, _ in found)
    assert set(statuses) == {200, 429}, f"of 64 at once no more than {Limits().waiting} are let in: {statuses}"
    assert statuses[200] >= 8
    assert all(after.isdigit() and int(after) >= 1 for status, after in found if status == 429)
    with playing.studio.client() as client:
        assert client.post("/v1/background", files=FILES, data=WORDS).status_code == 200
        assert client.get("/healthz").status_code == 200


# ── swaps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Answers:
    """Of two clients who ask all the time: when each request began, and its answer's JSON."""

    found: list[tuple[float, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, studio: Served) -> None:
        with studio.client() as client:
            while not self.stop.is_set():
                began = time.monotonic()
                answer = client.post("/v1/background", files=FILES, data={**WORDS, "k": "2"})
                assert answer.status_code == 200, answer.text
                self.found.append((began, answer.json()))

    def wait_for(self, version: str, asking: list[Future[None]]) -> None:
        """Until a request that begins from now on is answered by this version."""
        now, deadline = time.monotonic(), time.monotonic() + 60
        while not any(began > now and told["answers"][0]["version"] == version for began, told in list(self.found)):
            for one in asking:
                if one.done():
                    one.result()
            assert time.monotonic() < deadline, f"version {version} answered nobody"
            time.sleep(0.05)


def test_a_promotion_in_the_middle_fails_no_request(playing: Playing) -> None:
    answers = Answers()
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(answers.ask, playing.studio) for _ in range(2)]
        try:
            answers.wait_for(playing.versions[0], asking)
            for version in (playing.versions[2], playing.versions[0]):
                playing.stage.promote(version)
                playing.studio.wait_version(version, 20)
                answers.wait_for(version, asking)
        finally:
            answers.stop.set()
        for one in asking:
            one.result()
    told = [one["answers"][0] for _, one in answers.found]
    assert {one["version"] for one in told} == {playing.versions[0], playing.versions[2]}
    assert all(candidate["pixels"]["identical"] for one in told for candidate in one["candidates"])
    assert playing.studio.metric('studio_swaps_total{alias="champion",outcome="opened"}') >= 3


def test_an_engine_that_does_not_open_changes_nothing(playing: Playing, client: httpx.Client) -> None:
    unsigned = playing.stage.sibling(playing.stage.registry.version("backdrop-engine", "1").bundle, "unsigned")
    version = playing.stage.registry.register("backdrop-engine", unsigned)
    playing.stage.registry.set_alias("backdrop-engine", "champion", version)
    try:
        deadline = time.monotonic() + 20
        refusals = 'studio_swaps_total{alias="champion",outcome="refused"}'
        while not playing.studio.metric(refusals) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert playing.studio.metric(refusals) == 1
        answer = client.post("/v1/background", files=FILES, data={**WORDS, "k": "1"})
        assert answer.json()["answers"][0]["version"] == playing.versions[0]
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "cannot be opened" in ready.json()["status"]
    finally:
        playing.stage.registry.set_alias("backdrop-engine", "champion", playing.versions[0])
        deadline = time.monotonic() + 20
        while client.get("/readyz").json()["status"] != "ok" and time.monotonic() < deadline:
            time.sleep(0.2)
    assert client.get("/readyz").json()["status"] == "ok"
