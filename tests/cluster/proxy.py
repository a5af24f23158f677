"""A reverse proxy before an API server, ours or any cluster's, that answers wrongly when a test tells it to."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from tests.cluster.upstream import Upstream

# A status code from 400 on; a connection reset before the request went on, or after (the answer is lost); no answer.
Kind = int | Literal["reset", "lost", "timeout"]
Match = Callable[[str, str], bool]  # of a method and a path with its query

_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "te", "upgrade", "proxy-connection"}
_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass
class _Fault:
    left: int
    kind: Kind
    match: Match | None
    hold: float


class Proxy:
    """Passes every request on, from `with` to its end, save those that `fail` names and the time that it is `down`.

    `upstream` is an address or a kubeconfig: of that the current context's server, its authority and its client
    certificate are used, which a proxy must present itself; tokens pass through it.
    """

    def __init__(self, upstream: str | Path) -> None:
        self.faults = 0  # faults shown so far
        self.requests: list[tuple[float, str, str]] = []  # real monotonic seconds, method, path with its query
        self.upstream = Upstream(upstream)
        self._pending: list[_Fault] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server = _Server(self, 0)
        self.port = self._server.server_address[1]

    def __enter__(self) -> Proxy:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, path: Path) -> Path:
        """Writes a kubeconfig that leads here, with the user of the upstream's."""
        path.write_text(yaml.safe_dump(self.upstream.kubeconfig(self.url)))
        return path

    # ---- faults
    def fail(self, count: int, kind: Kind, match: Match | None = None, *, hold: float = 5.0) -> None:
        """The next `count` requests (that `match` takes) get this. A "timeout" is silent for `hold` real seconds, or
        until its client gives up, then resets. Faults are served in the order in which they were asked for."""
        with self._lock:
            self._pending.append(_Fault(count, kind, match, hold))

    @property
    def left(self) -> int:
        """Faults that are still to be shown."""
        with self._lock:
            return sum(f.left for f in self._pending)

    def heal(self) -> None:
        """Forgets the faults that are left."""
        with self._lock:
            self._pending.clear()

    def cut(self) -> None:
        """Ends every open connection in the middle, watches too."""
        with self._lock:
            open_now, self._connections = self._connections, set()
        for connection in open_now:
            _sever(connection)

    def down(self) -> None:
        """Connections are refused from now on, and open ones end in the middle."""
        if self._server.running:
            self._server.stop()
            self._server = _Server(self, self.port)  # bound, so that nobody else gets the port, but not listening
        self.cut()

    def up(self) -> None:
        if not self._server.running:
            self._server.start()

    # ---- for the handler
    def take(self, method: str, path: str) -> _Fault | None:
        """The fault for this request, counted."""
        with self._lock:
            self.requests.append((time.monotonic(), method, path))
            for fault in self._pending:
                if fault.match is None or fault.match(method, path):
                    fault.left -= 1
                    self.faults += 1
                    if not fault.left:
                        self._pending.remove(fault)
                    return fault
        return None

    def track(self, connection: socket.socket, *, opened: bool) -> None:
        with self._lock:
            (self._connections.add if opened else self._connections.discard)(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.proxy.track(self.connection, opened=True)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.server.proxy.track(self.connection, opened=False)

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        fault = self.server.proxy.take(self.command, self.path)
        kind = fault.kind if fault is not None else None
        if isinstance(kind, int):
            self._refuse(kind)
        elif fault is not None and kind in ("reset", "timeout"):
            if kind == "timeout":
                self._be_silent(fault.hold)
            self._break()
        else:
            self._pass_on(body, lost=kind == "lost")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve

    def _refuse(self, code: int) -> None:
        reason = _REASONS.get(code, "InternalError")
        text = "too many requests, please try again later" if code == 429 else "a fault of the test's proxy"
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
        data = json.dumps(status | {"reason": reason, "message": text}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def _be_silent(self, seconds: float) -> None:
        """Until the client goes away, or the time is over."""
        self.connection.settimeout(seconds)
        with contextlib.suppress(OSError):
            self.connection.recv(1)

    def _break(self) -> None:
        self.close_connection = True
        _reset(self.connection)

    def _pass_on(self, body: bytes, *, lost: bool) -> None:
        place = self.server.proxy.upstream
        upstream = place.connect()
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            upstream.request(self.command, place.prefix + self.path, body or None, headers)
            answer = upstream.getresponse()
            if lost:
                answer.read()
                self._break()
            else:
                self._relay(answer)
        except (OSError, http.client.HTTPException):  # either side is gone: the other learns it as it would without us
            self._break()
        finally:
            upstream.close()

    def _relay(self, answer: http.client.HTTPResponse) -> None:
        """As it comes: a watch's lines go on one by one."""
        self.send_response(answer.status, answer.reason)
        known = answer.getheader("Content-Length")
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"date", "server"}:
                self.send_header(name, value)
        if known is None:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        while data := answer.read1(65536):
            self.wfile.write(data if known is not None else b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        if known is None:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, proxy: Proxy, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self.proxy = proxy
        self.running = False
        self.server_bind()

    def start(self) -> None:
        self.server_activate()
        self.running = True
        threading.Thread(target=self.serve_forever, args=(0.02,), name="proxy", daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.running = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was sent away, is nothing to tell; a fault of this proxy is."""
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)


def _reset(connection: socket.socket) -> None:
    """Closes a handler's own connection with RST, once its files are closed too."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def _sever(connection: socket.socket) -> None:
    """Ends a connection under its handler's hands."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
