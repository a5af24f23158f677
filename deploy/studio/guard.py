"""Who may talk to the studio from a browser, and what a browser may do with its pages. Plain ASGI around the app."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.studio.refusal import Refusal

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """Refuses requests that a foreign page has made a browser send, and adds the security headers to every answer.

    A name that somebody else's DNS points at this machine (rebinding) stands in Host: only addresses, localhost and
    `names` are answered. A page of another origin stands in Origin, or in Sec-Fetch-Site.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add(message, HEADERS)
            await send(message)

        headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = objection(scope["method"], headers, self._names)
        if refused is not None:
            answer = JSONResponse(refused.body(), refused.status)
            await answer(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def objection(method: str, headers: MutableMapping[str, str], names: Iterable[str]) -> Refusal | None:
    """What speaks against a request with these headers (names in lower case). Pure."""
    host = headers.get("host", "")
    if not _ours(host, names):
        return Refusal(
            403, "host", f"The studio is not known as {host[:80]!r}.", "Open it by the address that it printed."
        )
    if method in ("GET", "HEAD"):
        return None
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != host
    if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return Refusal(
            403, "origin", "Another page has sent this request.", "Send it from the studio's own page, or a program."
        )
    return None


def _ours(host: str, names: Iterable[str]) -> bool:
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    name = name.strip("[]").lower().rstrip(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def _add(message: Message, headers: dict[str, str]) -> None:
    own: list[tuple[bytes, bytes]] = list(message.get("headers", []))
    there: set[bytes] = {name.lower() for name, _ in own}
    own += [(k.encode(), v.encode()) for k, v in headers.items() if k.lower().encode() not in there]
    extra: dict[str, Any] = {"headers": own}
    message.update(extra)
