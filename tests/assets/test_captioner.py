"""The captioner against a real HTTP server that fails in every way a server can."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.curation.captioner import (
    Caption,
    Captioner,
    CaptionSection,
    OpenAICaptioner,
    choose_captioner,
    forget_captions,
)
from assets.curation.captions.chat import clean, read_answer
from assets.curation.captions.pace import Pace, backoff, retry_after
from infra.errors import BackdropError, ServiceError
from infra.files import sha256_bytes
from infra.images import encode_jpeg
from infra.object_store import DirectoryStore, ObjectStore
from infra.settings import REPOSITORY

KEY = "sk-test-5f2a90c1d7e34b68"
Reply = tuple[int, dict[str, str], bytes]


def pictures(count: int) -> list[tuple[str, bytes]]:
    """Small JPEGs, each of another grey."""
    data = [encode_jpeg(np.full((16, 16, 3), 5 + 2 * index, np.uint8)) for index in range(count)]
    return [(sha256_bytes(one), one) for one in data]


def answer(text: Any, **choice: Any) -> Reply:
    body = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]}
    return 200, {}, json.dumps(body).encode()


class Server(ThreadingHTTPServer):
    """Answers as `reply(picture's SHA-256, how often it was asked for)` says, and remembers every request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[str, int], Reply | None] = lambda image, _: answer(f"A grey square, {image[:8]}.")
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        uri = body["messages"][0]["content"][0]["image_url"]["url"]
        image = sha256_bytes(base64.b64decode(uri.partition(",")[2]))
        with self.server.lock:
            self.server.asked[image] += 1
            nth = self.server.asked[image]
            self.server.seen.append((self.path, dict(self.headers), body))
        found = self.server.reply(image, nth)
        if found is None:  # hang up without a word
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers, data = found
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        with self.server.lock:
            self.server.answered[image] += 1

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CAPTION_API_KEY", KEY)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def captioner(server: Server, store: ObjectStore, **settings: Any) -> OpenAICaptioner:
    given = {"url": server.url, "model": "eye", "backoff_s": 0.02, "attempts": 3, "concurrency": 4, **settings}
    return OpenAICaptioner(CaptionSection(**given), store)


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


def test_a_cached_caption_makes_no_request(server: Server, store: ObjectStore) -> None:
    given = pictures(6)
    first = captioner(server, store).caption(given[:4])
    again = captioner(server, store).caption([*given, given[0]])
    assert again[:4] == first
    assert again[6] == again[0]
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 6
    model = CaptionSection(url=server.url, model="eye").model_hash
    assert sorted(store.list("captions/")) == sorted(f"captions/{model}/{image}.json" for image, _ in given)


def test_a_damaged_cache_entry_is_asked_for_again(server: Server, store: ObjectStore) -> None:
    ((image, data),) = pictures(1)
    one = captioner(server, store)
    one.caption([(image, data)])
    (key,) = store.list("captions/")
    for damaged in (b"", b"{", b"[]", b'{"caption": ""}', b"\xff"):
        store.put(key, damaged)
        assert one.caption([(image, data)])[0].text
    assert server.asked[image] == 6


def test_another_model_or_prompt_asks_anew_and_another_address_does_not(server: Server, store: ObjectStore) -> None:
    (one,) = pictures(1)
    for settings in ({}, {"model": "other"}, {"prompt": "What is it?"}, {"revision": "2"}, {"options": {"seed": 1}}):
        captioner(server, store, **settings).caption([one])
    assert server.asked[one[0]] == 5
    assert captioner(server, store, url="http://127.0.0.1:9").caption([one])[0].text
    assert server.asked[one[0]] == 5


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


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_and_an_unknown_model_end_the_batch_at_once(
    server: Server, store: ObjectStore, status: int
) -> None:
    said = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}, model `eye` does not exist"}})
    server.reply = lambda *_: (status, {}, said.encode())
    with pytest.raises(BackdropError) as raised:
        captioner(server, store, api_key_env="CAPTION_API_KEY").caption(pictures(40))
    assert not isinstance(raised.value, ServiceError)
    assert sum(server.asked.values()) <= 4
    assert KEY not in str(raised.value)
    assert ("CAPTION_API_KEY" if status == 401 else "eye") in str(raised.value)


def test_the_key_is_sent_to_no_other_host(server: Server, store: ObjectStore) -> None:
    elsewhere = Server()
    thread = threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.reply = lambda *_: (307, {"Location": f"{elsewhere.url}/chat/completions"}, b"")
    found = captioner(server, store, api_key_env="CAPTION_API_KEY").caption(pictures(2))
    elsewhere.shutdown()
    elsewhere.server_close()
    thread.join()
    assert all("307" in caption.problem for caption in found)
    assert not elsewhere.seen


def test_the_key_shows_nowhere(
    server: Server, store: ObjectStore, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Every way to fail, with a server that repeats the key in each answer and every logger at its loudest."""
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"error": {"message": f"you sent Bearer {KEY} and {KEY[:8]}"}}).encode()
    shown: list[str] = []
    for status in (200, 302, 400, 401, 403, 404, 429, 500, 503):
        server.reply = lambda *_, status=status: (status, {}, echo)  # type: ignore[misc]
        one = captioner(server, store, api_key_env="CAPTION_API_KEY", attempts=2)
        shown += [repr(one), repr(vars(one)), repr(one._section), one._section.model_dump_json(), one.name]
        try:
            shown += [repr(caption) for caption in one.caption(pictures(2))]
        except BackdropError as error:
            shown += [str(error), repr(error), *traceback.format_exception(error)]
            shown += [repr(error.__cause__), repr(error.__context__)]
    server.reply = lambda *_: None
    shown += map(repr, captioner(server, store, api_key_env="CAPTION_API_KEY").caption(pictures(1)))
    server.reply = lambda *_: answer("A square.")
    captioner(server, store, api_key_env="CAPTION_API_KEY").caption(pictures(3))
    assert len(shown) > 50
    assert caplog.records  # the log did listen
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "A square." in written
    for place in ("\n".join(shown), caplog.text, written):
        assert KEY not in place


@pytest.mark.parametrize("value", ["", "sk with spaces", "clé", "two\nlines"])
def test_a_key_that_is_none_is_refused_unseen(
    server: Server, store: ObjectStore, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTION_API_KEY", value)
    with pytest.raises(BackdropError, match="CAPTION_API_KEY") as raised:
        captioner(server, store, api_key_env="CAPTION_API_KEY").caption(pictures(1))
    if value:
        assert value not in "".join(traceback.format_exception(raised.value))
    assert not server.seen


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key_env": KEY},
        {"url": f"https://user:{KEY}@host/v1"},
        {"url": f"https://host/v1?key={KEY}"},
        {"url": f"{KEY}"},
        {"url": f"http://[{KEY}/v1"},
    ],
)
def test_settings_refuse_a_key_without_repeating_it(settings: dict[str, str]) -> None:
    with pytest.raises(BackdropError) as raised:
        CaptionSection(**{"url": "http://host/v1", "model": "eye", **settings})  # type: ignore[arg-type]
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_settings() -> None:
    with pytest.raises(ValueError, match="model"):
        CaptionSection(url="http://host/v1")
    with pytest.raises(ValueError, match="modle"):
        CaptionSection(url="http://host/v1", modle="eye")  # type: ignore[call-arg]
    for url in ("http://host", "http://host/", "http://host/v1", "http://host/v1/", "http://host/v1/chat/completions"):
        assert CaptionSection(url=url, model="eye").endpoint == "http://host/v1/chat/completions"
    section = CaptionSection(url="http://host/v1", model="eye")
    assert pickle.loads(pickle.dumps(section)).model_hash == section.model_hash


def test_no_url_no_captioner(store: ObjectStore) -> None:
    assert choose_captioner(CaptionSection(), store) is None
    chosen = choose_captioner(CaptionSection(url="http://host/v1", model="eye"), store)
    assert chosen is not None
    assert chosen.name.startswith("eye@")


def test_forgotten_captions_are_gone_for_every_model(server: Server, store: ObjectStore) -> None:
    given = pictures(3)
    for model in ("one", "two", "three"):
        captioner(server, store, model=model).caption(given)
    assert forget_captions(store, [given[0][0], given[2][0], "f" * 64]) == 6
    assert {key.rpartition("/")[2] for key in store.list("captions/")} == {f"{given[1][0]}.json"}
    assert len(list(store.list("captions/"))) == 3


def test_the_cache_lives_in_a_bucket_too(server: Server, s3_store: ObjectStore) -> None:
    given = pictures(4)
    first = captioner(server, s3_store).caption(given)
    assert captioner(server, s3_store).caption(given) == first
    assert sum(server.asked.values()) == 4
    assert forget_captions(s3_store, [image for image, _ in given]) == 4


@pytest.mark.integration
def test_a_killed_run_asks_only_for_what_is_missing(server: Server, tmp_path: Path) -> None:
    given, concurrency = pictures(40), 3
    folder, store = tmp_path / "in", DirectoryStore(tmp_path / "store")
    folder.mkdir()
    for image, data in given:
        (folder / image).write_bytes(data)
    program = (
        "import sys; from pathlib import Path\n"
        "from assets.curation.captioner import CaptionSection, OpenAICaptioner\n"
        "from infra.object_store import DirectoryStore\n"
        "found = [(p.name, p.read_bytes()) for p in sorted(Path(sys.argv[1]).iterdir())]\n"
        f"section = CaptionSection(url={server.url!r}, model='eye', concurrency={concurrency})\n"
        "print(sum(bool(c.text) for c in OpenAICaptioner(section, DirectoryStore(Path(sys.argv[2]))).caption(found)))\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(store.folder)]

    def reply(image: str, _: int) -> Reply:
        time.sleep(0.03)
        return answer(f"Picture {image[:8]}.")

    server.reply = reply
    cached: set[str] = set()
    for kill_after in (4, 15, 30):
        before = server.asked.copy()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while sum(server.answered.values()) < kill_after and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not any(server.asked[image] > before[image] for image in cached)  # nothing was paid for twice
        cached = {key.rpartition("/")[2].removesuffix(".json") for key in store.list("captions/")}
    assert cached
    before = server.asked.copy()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "40"
    asked = {image for image, _ in given if server.asked[image] > before[image]}
    assert asked == {image for image, _ in given} - cached
    assert sum(server.asked.values()) <= 40 + 3 * concurrency  # what was under way at each kill


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ('"A red ball."', "A red ball."),
        ("A  red\nball.\x00", "A red ball."),
        ("<think>what is it?</think>A red ball.", "A red ball."),
        ('"Hot" mug beside "cold" mug', '"Hot" mug beside "cold" mug'),
        ("e\u0301tage\u0300re", "étagère"),
        ("bad \ud800 half", "bad half"),
        ("...", ""),
    ],
)
def test_texts_are_cleaned(given: str, wanted: str) -> None:
    assert clean(given) == wanted


def test_an_answer_in_parts_and_one_cut_short() -> None:
    parts = [{"type": "text", "text": "A red"}, {"type": "text", "text": "ball."}, {"type": "audio"}, 3]
    assert read_answer(answer(parts)[2]).text == "A red ball."
    assert read_answer(answer("A red ball. It lies on a", finish_reason="length")[2]).text == "A red ball."


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("3", 3),
        (" 1.5 ", 1.5),
        ("-4", 0),
        ("soon", 0),
        ("nan", 0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("Thu, 99 Jan 1970 00:00:01 GMT", 0),
    ],
)
def test_retry_after_headers(header: str | None, seconds: float) -> None:
    assert retry_after(header, now=10.0) == seconds


def test_backing_off_doubles_with_jitter_up_to_a_limit() -> None:
    for failures, longest in ((1, 1), (2, 2), (4, 8), (9, 30), (5000, 30)):
        waits = [backoff(failures, 1.0, 30.0) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert max(waits) - min(waits) > longest / 10


def test_a_burst_of_429_slows_down_once() -> None:
    pace, stop = Pace(None), threading.Event()
    left = [pace.wait(stop) for _ in range(8)]
    for moment in left:
        pace.slow_down(0.0, moment)
    assert pace._gap == 0.05
    pace.slow_down(0.0, pace.wait(stop))
    assert pace._gap == 0.1
    for _ in range(20):
        pace.speed_up()
    assert pace._gap == 0.0
