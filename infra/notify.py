"""Delivery of short messages to people: a webhook that chat servers understand, and e-mail.

    Notice ─► Webhook   POST of JSON: `text` for Slack, Mattermost and the like, and fields of ours beside it
           └► Email     SMTP with STARTTLS or TLS

Nothing is tried twice here. A secret is never a setting, only where it lies: `env:NAME` or `file:/path`; it is read
when it is used, and stands in no message of ours. A webhook's address is often a secret itself: only its host is named.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import os
import queue
import re
import smtplib
import socket
import ssl
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit

from infra.errors import BackdropError, ServiceError
from infra.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

SECONDS = 10.0
"""For one delivery, from the name's look-up to the answer: also where a receiver sends a byte now and then."""
KEY_HEADER, STAMP_HEADER, SIGNATURE_HEADER = "Idempotency-Key", "X-Backdrop-Timestamp", "X-Backdrop-Signature"
_TEXT_LENGTH = 3500  # what every chat server shows in one message
_AGAIN = {408, 425, 429}  # refusals that are none: ask again later
_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True)
class Notice:
    """One message. `key` is the same each time it is sent, so that a receiver can tell a repetition."""

    key: str
    subject: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class NotDelivered(ServiceError):
    """The receiver has not taken it. `away`: it would not take another one now either; `wait`: seconds it asked for."""

    def __init__(self, what: str, *, away: bool, wait: float = 0.0) -> None:
        super().__init__(what, "it is tried again later")
        self.away, self.wait = away, wait


class Destination(Protocol):
    """Where messages go; `name` is "webhook" or "email"."""

    @property
    def name(self) -> str: ...

    def send(self, notice: Notice) -> None:
        """Raises NotDelivered, or BackdropError where the settings are wrong."""


def destinations(settings: Settings) -> list[Destination]:
    """What the settings name; empty where they name nothing. Raises BackdropError for what cannot be right."""
    found: list[Destination] = []
    if settings.alert_webhook:
        found.append(Webhook(settings.alert_webhook, settings.alert_webhook_key, settings.alert_webhook_http))
    if settings.alert_email:
        found.append(Email(settings.alert_email, settings.smtp, settings.smtp_password, settings.alert_from))
    return found


class Webhook:
    """Posts to `address`; signed, where there is a `key`, as `sha256=HMAC(key, "<timestamp>.<body>")`.

    Redirects are not followed: they would lead what is posted to somebody whom nobody has named.
    """

    name = "webhook"

    def __init__(self, address: str, key: str | None = None, http: bool = False, seconds: float = SECONDS) -> None:
        self._address, self._key, self._http, self._seconds = address, key, http, seconds
        if not address.startswith(("env:", "file:")):
            self._checked(address)

    def send(self, notice: Notice) -> None:
        """Raises NotDelivered, or BackdropError where the settings are wrong."""
        address = self._address
        if address.startswith(("env:", "file:")):
            address = self._checked(secret(address, "BACKDROP_ALERT_WEBHOOK"))
        body = json.dumps({"text": harmless(notice.text)[:_TEXT_LENGTH], "key": notice.key, **notice.fields}).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "backdrop",
            KEY_HEADER: quote(notice.key, safe=":#@/"),
        }
        if self._key:
            headers |= signed(body, secret(self._key, "BACKDROP_ALERT_WEBHOOK_KEY"), int(time.time()))
        request = urllib.request.Request(address, body, headers, method="POST")
        host = str(urlsplit(address).hostname)
        within(self._seconds, lambda: _post(request, host, self._seconds), f"{host} has not answered")

    def _checked(self, address: str) -> str:
        try:
            parts = urlsplit(address)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            parts, host = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x20\x7f]", address):
            raise BackdropError(
                "BACKDROP_ALERT_WEBHOOK is no address to post to.",
                "Give https://…, or env:NAME or file:/path where it lies.",
            )
        if parts.username or parts.password:
            raise BackdropError(
                "BACKDROP_ALERT_WEBHOOK has a user or password in it.", "Sign with BACKDROP_ALERT_WEBHOOK_KEY instead."
            )
        if parts.scheme == "http" and not (self._http or is_here(host)):
            raise BackdropError(
                f"BACKDROP_ALERT_WEBHOOK would post to {host} without encryption.",
                "Give https://…, or set BACKDROP_ALERT_WEBHOOK_HTTP=true where the way there is safe.",
            )
        return address


def signed(body: bytes, key: str, stamp: int) -> dict[str, str]:
    """The headers by which a receiver knows who sent `body`, and when (seconds since 1970): an old one is a replay."""
    mac = hmac.new(key.encode(), f"{stamp}.".encode() + body, hashlib.sha256)
    return {STAMP_HEADER: str(stamp), SIGNATURE_HEADER: f"sha256={mac.hexdigest()}"}


class Email:
    """Mails to all `recipients` at once through `server`; where that names a user, with what lies at `password`."""

    name = "email"

    def __init__(
        self,
        recipients: str,
        server: str | None,
        password: str | None = None,
        sender: str | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self._to = [_address_in(part, "BACKDROP_ALERT_EMAIL") for part in recipients.split(",") if part.strip()]
        try:
            parts = urlsplit(server or "")
            self._port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/"):
            raise BackdropError(
                "Mail has no server to go through: BACKDROP_SMTP is empty or no address.",
                "Give smtp://user@host:587 (STARTTLS) or smtps://user@host:465 (TLS).",
            )
        if parts.password:
            raise BackdropError("BACKDROP_SMTP has a password in it.", "Say where it lies: BACKDROP_SMTP_PASSWORD.")
        self._tls, self._host, self._user = parts.scheme == "smtps", parts.hostname, unquote(parts.username or "")
        if self._user and not password:
            raise BackdropError("BACKDROP_SMTP has a user and no password.", "Set BACKDROP_SMTP_PASSWORD=env:NAME.")
        self._password, self._seconds = password, seconds
        from_user = self._user if "@" in self._user else f"backdrop@{socket.gethostname()}"
        self._from = _address_in(sender or from_user, "BACKDROP_ALERT_FROM")

    def send(self, notice: Notice) -> None:
        """Raises NotDelivered, or BackdropError where the settings are wrong."""
        message = EmailMessage()
        message["From"], message["To"] = self._from, ", ".join(self._to)
        message["Subject"] = " ".join(notice.subject.split())[:200]
        message["Date"] = formatdate()
        # The same for a repetition: many a mail server shows one of two such messages.
        message["Message-ID"] = f"<{hashlib.sha256(notice.key.encode()).hexdigest()[:40]}@backdrop>"
        message.set_content(notice.text)
        password = secret(self._password, "BACKDROP_SMTP_PASSWORD") if self._user and self._password else ""
        within(self._seconds, lambda: self._mail(message, password), f"{self._host} has not answered")

    def _mail(self, message: EmailMessage, password: str) -> None:
        try:
            with self._connect() as server:
                if self._user:
                    server.login(self._user, password)
                refused = server.send_message(message, self._from, self._to)
        except smtplib.SMTPAuthenticationError as error:  # the next would fail too, and lock the account
            raise NotDelivered(f"{self._host} refuses the login ({error.smtp_code})", away=True) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            raise NotDelivered(f"{self._host} takes none of the recipients ({codes})", away=False) from None
        except smtplib.SMTPResponseException as error:
            text = f"{self._host} answers {error.smtp_code}"
            raise NotDelivered(text, away=error.smtp_code < 500) from None
        except smtplib.SMTPNotSupportedError:
            raise NotDelivered(f"{self._host} offers no STARTTLS, or no login", away=True) from None
        except (OSError, smtplib.SMTPException) as error:
            raise NotDelivered(f"{self._host}: {_reason(error)}", away=True) from None
        for address, (code, _) in refused.items():
            log.warning("%s does not take mail for %s (%s)", self._host, address, code)

    def _connect(self) -> smtplib.SMTP:
        if self._tls:
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self._seconds, context=context)
        server = smtplib.SMTP(self._host, self._port, timeout=self._seconds)
        try:
            server.ehlo()
            # A relay on this machine may go without.
            if server.has_extn("starttls") or not is_here(self._host):
                server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
        return server


def secret(reference: str, variable: str) -> str:
    """What lies at `reference` (env:NAME or file:/path). Raises BackdropError, which never holds the secret itself."""
    scheme, _, place = reference.partition(":")
    value = ""
    if scheme == "env":
        value = os.environ.get(place, "")
    elif scheme == "file":
        try:
            with Path(place).open(encoding="utf-8") as file:
                # A mounted secret may be readable by the pod's group; by the world it never is.
                if os.fstat(file.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH):
                    raise BackdropError(f"{place}, which {variable} names, is open to everyone.", f"chmod 600 {place}")
                value = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise BackdropError(f"{variable} cannot be read: {_reason(error)}.", f"Correct {variable}.") from None
    else:  # whatever it is, it may be the secret: it is not repeated
        raise BackdropError(f"{variable} is no reference to a secret.", "Give env:NAME or file:/path.")
    if not value.strip():
        raise BackdropError(f"{variable} names an empty secret ({reference}).", "Fill it.")
    return value.strip()


def harmless(text: str) -> str:
    """`text` without what a chat server takes for a call to everybody, a user, or a link with another name."""
    text = text.replace("<", "‹").replace(">", "›")
    return re.sub(r"@(?=(all|channel|here|everyone)\b)", "@\u200b", text, flags=re.IGNORECASE)


def is_here(host: str) -> bool:
    """Whether the host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def within(seconds: float, work: Callable[[], T], late: str) -> T:
    """What `work` returns or raises; NotDelivered when that takes longer.

    Time-outs of a socket hold for each read: against a receiver that drips only a clock of one's own helps. The thread
    that is left ends with its connection.
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True, name="notify").start()
    try:
        value, error = done.get(timeout=seconds)
    except queue.Empty:
        raise NotDelivered(f"{late} within {seconds:.0f} s", away=True) from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # without an error it is what work has returned


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _post(request: urllib.request.Request, host: str, seconds: float) -> None:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_here(host):
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy's own machine is another
    try:
        urllib.request.build_opener(*handlers).open(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        with error:
            _refused(host, error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotDelivered(f"{host}: {_reason(error)}", away=True) from None


def _refused(host: str, error: urllib.error.HTTPError) -> NoReturn:
    if 300 <= error.code < 400:
        raise NotDelivered(f"{host} answers {error.code}: redirects are not followed", away=False) from None
    asked = error.headers.get("Retry-After", "")
    wait = float(asked) if re.fullmatch("[0-9]{1,9}", asked) else 0.0
    away = error.code >= 500 or error.code in _AGAIN
    raise NotDelivered(f"{host} answers {error.code}", away=away, wait=wait) from None


def _reason(error: BaseException) -> str:
    """In words that hold no address: an exception's own text may name the whole URL."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {reason.verify_message}"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__


def _address_in(text: str, variable: str) -> str:
    found = text.strip()
    if not re.fullmatch(r"[^@\s,<>\"]+@[^@\s,<>\"]+", found):
        raise BackdropError(f"{variable} has {found[:80]!r}, which is no address.", "Give name@host.")
    return found
