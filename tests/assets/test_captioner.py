"""The captioner against a real HTTP server that fails in every way a server can."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from assets.curation.captioner import Caption, Captioner, CaptionSection, OpenAICaptioner
from infra.errors import ServiceError
from infra.object_store import ObjectStore
from tests.assets.captioning import KEY, Reply, Server, answer, captioner, pictures


def test_every_picture_gets_its_own_caption_in_order(server: Server, store: ObjectStore) -> None:
    given = pictures(20)
    found: Captioner = captioner(server, store, api_key_env="CAPTION_API_KEY")
    assert found.caption(given) == [Caption(image, f"A grey square, {image[:8]}.") for image, _ in given]
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "eye"
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert body["messages"][0]["content"][1]["type"] == "text"


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ((500, {}, b"oops"), "500"),
        ((503, {}, b'{"error": {"message": "loading the model"}}'), "loading the model"),
        ((429, {}, b""), "429"),
        ((200, {}, b"<html>hello</html>"), "not JSON"),
        ((200, {}, b"[" * 100_000), "not JSON"),
        ((200, {}, b"\xff\xfe\x00"), "not JSON"),
        ((200, {}, b""), "not JSON"),
        ((200, {}, b'{"choices": []}'), "no choices"),
        ((200, {}, b'{"choices": [null]}'), "empty"),
        ((200, {}, b"null"), "no choices"),
        (answer(None), "empty"),
        (answer("  \n "), "empty"),
        (answer("x " * 3000), "characters"),
        ((200, {}, b'{"choices": "' + b"x" * (2 << 20) + b'"}'), "larger than"),
        (None, "connection failed"),
        ((200, {"Content-Length": "999"}, b'{"choi'), "within"),
    ],
)
def test_a_bad_answer_is_asked_again_and_then_a_problem(
    server: Server, store: ObjectStore, bad: Reply | None, problem: str
) -> None:
    good, flaky, lost = pictures(3)

    def reply(image: str, nth: int) -> Reply | None:
        return bad if image == lost[0] or (image == flaky[0] and nth < 3) else answer("A square.")

    server.reply = reply
    found = captioner(server, store, timeout_s=0.5).caption([good, flaky, lost])
    assert [caption.text for caption in found] == ["A square.", "A square.", ""]
    assert problem in found[2].problem
    assert [server.asked[image] for image, _ in (good, flaky, lost)] == [1, 3, 3]
    assert len(list(store.list("captions/"))) == 2  # a problem is not cached

    server.reply = lambda *_: answer("A square after all.")
    assert captioner(server, store).caption([good, flaky, lost])[2].text == "A square after all."
    assert sum(server.asked.values()) == 8  # only the missing one was asked for


@pytest.mark.parametrize(
    ("refusal", "problem"),
    [
        ((400, {}, b'{"error": {"message": "image too small"}}'), "400: image too small"),
        ((422, {}, b'{"detail": "bad picture"}'), "bad picture"),
        (answer("", finish_reason="content_filter"), "refused"),
        (answer("A very long sentence that", finish_reason="length"), "cut off"),
    ],
)
def test_a_picture_that_is_refused_is_not_asked_again(
    server: Server, store: ObjectStore, refusal: Reply, problem: str
) -> None:
    server.reply = lambda *_: refusal
    found = captioner(server, store, away_after=2).caption(pictures(5))
    assert all(problem in caption.problem for caption in found)
    assert set(server.asked.values()) == {1}


def test_bytes_that_are_no_picture_never_leave(server: Server, store: ObjectStore) -> None:
    found = captioner(server, store).caption([("a" * 64, b"hello"), ("b" * 64, b"")])
    assert all("not sent" in caption.problem for caption in found)
    assert not server.seen


def test_retry_after_is_honoured(server: Server, store: ObjectStore) -> None:
    (one,) = pictures(1)
    moments: list[float] = []

    def reply(_: str, nth: int) -> Reply:
        moments.append(time.monotonic())
        return (429, {"Retry-After": "1"}, b"") if nth == 1 else answer("A square.")

    server.reply = reply
    assert captioner(server, store).caption([one])[0].text
    assert 1.0 <= moments[1] - moments[0] < 2.0


def test_a_pause_that_one_answer_asks_for_holds_for_all(server: Server, store: ObjectStore) -> None:
    given = pictures(8)
    moments: list[float] = []

    def reply(image: str, nth: int) -> Reply:
        moments.append(time.monotonic())
        if image == given[0][0] and nth == 1:
            return 429, {"Retry-After": "1"}, b""
        time.sleep(0.1)
        return answer("A square.")

    server.reply = reply
    assert all(caption.text for caption in captioner(server, store, concurrency=2).caption(given))
    assert sum(moment < moments[0] + 0.95 for moment in moments) <= 2  # what left at once, nothing else


def test_a_service_that_takes_few_requests_gets_all_pictures_described(server: Server, store: ObjectStore) -> None:
    """Ten requests a second at most, 16 threads that want more: backing off together must not fail pictures."""
    recent: list[float] = []

    def reply(*_: Any) -> Reply:
        with server.lock:
            now = time.monotonic()
            recent[:] = [moment for moment in recent if moment > now - 1]
            if len(recent) >= 10:
                return 429, {"Retry-After": "1"}, b""
            recent.append(now)
        return answer("A square.")

    server.reply = reply
    found = captioner(server, store, concurrency=16, attempts=6).caption(pictures(50))
    assert [caption.problem for caption in found if caption.problem] == []


def test_the_rate_limit_holds(server: Server, store: ObjectStore) -> None:
    moments: list[float] = []

    def reply(*_: Any) -> Reply:
        moments.append(time.monotonic())
        return answer("A square.")

    server.reply = reply
    limited = captioner(server, store, rate=20, concurrency=8)
    limited.caption(pictures(11))
    limited.caption(pictures(15))  # also from one batch to the next
    assert len(moments) == 15
    assert max(moments) - min(moments) >= 14 / 20 - 0.02


def test_requests_run_side_by_side_and_no_more_than_allowed(server: Server, store: ObjectStore) -> None:
    running, most = 0, 0

    def reply(*_: Any) -> Reply:
        nonlocal running, most
        with server.lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with server.lock:
            running -= 1
        return answer("A square.")

    server.reply = reply
    captioner(server, store, concurrency=5).caption(pictures(20))
    assert most == 5


def test_a_silent_and_an_unfinished_answer_run_into_the_time_limit(server: Server, store: ObjectStore) -> None:
    silent, unfinished = pictures(2)

    def reply(image: str, _: int) -> Reply:
        if image == silent[0]:
            time.sleep(1.2)
        return 200, {"Content-Length": "100"}, b"{"

    server.reply = reply
    started = time.monotonic()
    found = captioner(server, store, timeout_s=0.4, attempts=2).caption([silent, unfinished])
    assert all("within 0.4 s" in caption.problem for caption in found)
    assert time.monotonic() - started < 3


def test_a_body_that_drips_ends_at_the_deadline(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps every socket timeout happy; the whole answer has a limit too."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                try:
                    for _ in range(100):
                        connection.sendall(b" ")
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        section = CaptionSection(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", model="eye", timeout_s=0.3, attempts=1
        )
        started = time.monotonic()
        (found,) = OpenAICaptioner(section, store).caption(pictures(1))
        assert "no whole answer within 0.3 s" in found.problem
        assert time.monotonic() - started < 2
        thread.join()


def test_nobody_there_is_one_service_error(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        section = CaptionSection(url=url, model="eye", backoff_s=0.01, attempts=3)
        with pytest.raises(ServiceError, match="is away") as raised:
            OpenAICaptioner(section, store).caption(pictures(30))
    assert raised.value.exit_code == 75
    assert url in str(raised.value)


def test_a_service_that_fails_everything_is_one_service_error_and_keeps_what_it_answered(
    server: Server, store: ObjectStore
) -> None:
    given = pictures(60)
    server.reply = lambda _, nth: answer("A square.") if sum(server.answered.values()) < 10 else (500, {}, b"")
    with pytest.raises(ServiceError, match="pictures in a row"):
        captioner(server, store, away_after=8, attempts=2, concurrency=2).caption(given)
    asked = sum(server.asked.values())
    assert asked < 10 + 2 * 12  # it gave up, it did not ask for all sixty
    kept = len(list(store.list("captions/")))
    assert 9 <= kept <= 12
    server.reply = lambda *_: answer("A square.")
    assert all(caption.text for caption in captioner(server, store).caption(given))
    assert sum(server.asked.values()) == asked + 60 - kept


def test_a_service_that_wants_an_hour_is_away(server: Server, store: ObjectStore) -> None:
    server.reply = lambda *_: (429, {"Retry-After": "3600"}, b"")
    with pytest.raises(ServiceError, match="3600 s"):
        captioner(server, store).caption(pictures(40))
    assert sum(server.asked.values()) <= 4
