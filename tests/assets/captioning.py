"""A captioning service on a real socket that answers as a test says."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from assets.curation.captioner import CaptionSection, OpenAICaptioner
from infra.files import sha256_bytes
from infra.images import encode_jpeg
from infra.object_store import ObjectStore

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
