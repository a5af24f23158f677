"""Local receivers of alerts on real sockets: a webhook and a mail server, each as ill-behaved as it is told to be."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# ── webhook ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Hook:
    """A webhook's receiver. `answers`: what the next requests get, then 200; a status, or a way to misbehave."""

    url: str = ""
    answers: list[Any] = field(default_factory=list)
    posts: list[dict[str, Any]] = field(default_factory=list)
    raw: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    gets: int = 0
    page: bytes = b""

    def keys(self) -> list[str]:
        return [post["key"] for post in self.posts]


@contextmanager
def webhook(hook: Hook | None = None) -> Iterator[Hook]:
    found = hook or Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = found.answers.pop(0) if found.answers else 200
            if answer == "hang up":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if answer == "silent":
                time.sleep(5)
                return
            if answer == "drip":
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 50:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.1)
                return
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            if status == 200:
                found.raw.append((dict(self.headers), body))
                found.posts.append(json.loads(body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def do_GET(self) -> None:
            found.gets += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(found.page)))
            self.end_headers()
            self.wfile.write(found.page)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that gave up is what a test wants."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


# ── mail ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Mailbox:
    """A mail server's memory. `login`: "user:password" that it asks for; `refuse`: recipients it does not take."""

    port: int = 0
    login: str = ""
    refuse: tuple[str, ...] = ()
    starttls: bool = True
    answer: str = "250 taken"
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)


@contextmanager
def mail_server(box: Mailbox, context: ssl.SSLContext | None = None, tls: bool = False) -> Iterator[Mailbox]:
    """RFC 5321 as far as smtplib speaks it; with `context` STARTTLS is offered, or TLS from the start."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.encrypted, self.to = False, []  # type: ignore[var-annotated]
            if tls:
                self._encrypt()
            self.file = self.request.makefile("rb")
            self._say("220 here")
            while line := self.file.readline():
                if not self._command(line.decode().strip()):
                    return

        def _command(self, line: str) -> bool:
            verb = line.split(" ")[0].upper()
            if verb == "EHLO":
                offers = ["250-here", *(["250-STARTTLS"] if context and box.starttls and not self.encrypted else [])]
                self._say("\r\n".join([*offers, "250 AUTH PLAIN"]))
            elif verb == "STARTTLS" and context:
                self._say("220 go on")
                self._encrypt()
                self.file = self.request.makefile("rb")
            elif verb == "AUTH":
                given = base64.b64decode(line.split(" ")[-1]).decode().split("\0")
                box.logins.append(":".join(given[1:]))
                self._say("235 welcome" if ":".join(given[1:]) == box.login else "535 no")
            elif verb == "RCPT":
                address = line[line.index("<") + 1 : line.index(">")]
                taken = address not in box.refuse
                self.to += [address] if taken else []
                self._say("250 fine" if taken else "550 unknown")
            elif verb == "DATA":
                self._say("354 go on")
                self._take()
            elif verb == "QUIT":
                self._say("221 bye")
                return False
            else:
                self._say("250 fine")
            return True

        def _take(self) -> None:
            lines = []
            while (line := self.file.readline()) != b".\r\n":
                lines.append(line)
            if box.answer.startswith("250"):
                mail = message_from_bytes(b"".join(lines), policy=policy.default)
                assert isinstance(mail, EmailMessage)
                box.mails.append(mail)
                box.recipients.append(self.to)
                box.encrypted.append(self.encrypted)
            self._say(box.answer)

        def _encrypt(self) -> None:
            assert context is not None
            self.request = context.wrap_socket(self.request, server_side=True)
            self.encrypted = True

        def _say(self, text: str) -> None:
            self.request.sendall(f"{text}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that does not trust us is what a test wants."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    box.port = server.server_address[1]
    try:
        yield box
    finally:
        server.shutdown()
        server.server_close()


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate for 127.0.0.1, and the file to trust it by."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, private = folder / "certificate.pem", folder / "key.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    return context, path
