"""Who asks for a promotion. Dagster and the command line know no identity, so a request may carry a signed token.

A token is good for one action on one bundle for a day. Who may approve is a setting: names with their public keys.
Without that setting everybody may, and the ledger calls them unverified actors.
"""

from __future__ import annotations

import base64
import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from deploy.signing import Signer, verify
from infra.errors import BackdropError, nearest
from infra.files import canonical_json

PURPOSE = "approval"
APPROVE = "approve"
LIFETIME = timedelta(days=1)
_AHEAD = timedelta(minutes=5)  # that clocks may differ by
_KEYS = "BACKDROP_APPROVERS"


@dataclass(frozen=True)
class Actor:
    """Who asks. `verified`: with a signature that was checked, which is `token` (kept in the ledger)."""

    name: str
    verified: bool = False
    token: str = ""


@dataclass(frozen=True)
class Claim:
    """What is signed: who does what to which bundle, and when (UTC, ISO 8601)."""

    action: str
    model: str
    version: str
    bundle: str
    actor: str
    at: str


def sign(signer: Signer, claim: Claim) -> str:
    """The claim and its signature as one word that can be pasted."""
    return _spelled(claim, json.loads(signer.sign(PURPOSE, canonical_json(asdict(claim)))))


def approvers(setting: str | None) -> dict[str, str]:
    """Name → public key, from `anna=<64 hexadecimal digits>, bo=…`. Raises BackdropError."""
    found = {}
    for part in filter(None, (part.strip() for part in (setting or "").split(","))):
        name, _, key = (piece.strip() for piece in part.partition("="))
        if not name or len(key) != 64 or set(key.lower()) - set("0123456789abcdef"):
            raise BackdropError(
                f"{_KEYS} has {part[:80]!r}, which is no name and public key.",
                "Write name=<64 hexadecimal digits>, several separated by commas; `backdrop sign` shows your key.",
            )
        found[name] = key.lower()
    return found


def user() -> str:
    """The name that the operating system knows, for those who give none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user that no file names
        return "nobody"


def actor_of(token: str, asked: Claim, known: Mapping[str, str], now: datetime | None = None) -> Actor:
    """Who asks for what `asked` says. `known`: `approvers`. Raises BackdropError for whom they do not hold.

    An empty token is a bare name, which is enough where nobody has to sign. The actor's token is spelled in the one way
    that `sign` spells it, so that the same signature is never taken for another.
    """
    if not token:
        if known:
            raise _unknown(asked.actor, known, "has not signed")
        return Actor(asked.actor)
    claim, signature, token = _parse(token)
    if not known:
        return Actor(claim.actor, token=token)
    if claim.actor not in known:
        raise _unknown(claim.actor, known, "is not one of them")
    try:
        verify(PURPOSE, canonical_json(asdict(claim)), signature, [known[claim.actor]], "the token")
    except BackdropError:
        raise _unknown(claim.actor, known, "has not signed this token") from None
    wanted = (asked.action, asked.model, asked.version, asked.bundle)
    if (claim.action, claim.model, claim.version, claim.bundle) != wanted:
        raise BackdropError(
            f"The token is for: {claim.action} version {claim.version} of {claim.model} (bundle {claim.bundle[:12]}), "
            f"and not for: {asked.action} version {asked.version} of {asked.model} (bundle {asked.bundle[:12]}).",
            "Sign what is meant: `backdrop sign`.",
        )
    _check_age(claim, now or datetime.now(UTC))
    return Actor(claim.actor, verified=True, token=token)


def _unknown(name: str, known: Mapping[str, str], why: str) -> BackdropError:
    return BackdropError(
        f"Unknown actor: {name!r} {why}.{nearest(name, known) if name not in known else ''}",
        f"Those who may are in {_KEYS}: {', '.join(sorted(known))}. Give --key with your private key, or a token.",
    )


def _spelled(claim: Claim, signature: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(canonical_json({"claim": asdict(claim), "signature": signature})).decode()


def _parse(token: str) -> tuple[Claim, bytes, str]:
    """The claim, its signature, and the token as `sign` spells it."""
    try:
        content = json.loads(base64.b64decode(token.strip().encode(), altchars=b"-_", validate=True))
        claim = Claim(**{name: str(value) for name, value in content["claim"].items()})
        given = content["signature"]
        signature = {name: str(given[name]) for name in ("algorithm", "key", "signature")}
        signature["signature"] = bytes.fromhex(signature["signature"]).hex()
        return claim, canonical_json(signature), _spelled(claim, signature)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackdropError(
            "The token is damaged.", "Make it again with `backdrop sign`, and paste all of it."
        ) from None


def _check_age(claim: Claim, now: datetime) -> None:
    try:
        age = now - datetime.fromisoformat(claim.at)
    except (ValueError, TypeError):  # also a time without a zone
        raise BackdropError("The token has no time.", "Make it again with `backdrop sign`.") from None
    if not -_AHEAD <= age <= LIFETIME:
        raise BackdropError(
            f"The token is from {claim.at}: it is good for a day.", "Make it again with `backdrop sign`."
        )
