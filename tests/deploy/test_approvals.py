"""Tokens: who may ask for what, for how long, and what is refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.approvals import Claim, actor_of, approvers, sign
from deploy.promotion import approved
from deploy.signing import Signer
from infra.catalog.ledger import APPROVED, REJECTED, Entry
from infra.errors import BackdropError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLAIM = Claim("approve", "backdrop-engine", "4", "ab" * 32, "anna", NOW.isoformat())
ANNA, EVE = Signer(Ed25519PrivateKey.generate()), Signer(Ed25519PrivateKey.generate())
KNOWN = {"anna": ANNA.public, "bo": "cd" * 32}


def test_a_signed_request_is_verified() -> None:
    token = sign(ANNA, CLAIM)
    actor = actor_of(token, replace(CLAIM, actor="whoever types"), KNOWN, NOW + timedelta(hours=23))
    assert (actor.name, actor.verified, actor.token) == ("anna", True, token)


def respelled(token: str) -> list[str]:
    """The same claim and signature in other letters."""
    content = json.loads(base64.urlsafe_b64decode(token))
    shouted = {**content, "signature": content["signature"] | {"signature": content["signature"]["signature"].upper()}}
    more = {**content, "more": 1, "signature": content["signature"] | {"more": 1}}
    texts = [json.dumps(content, indent=1), json.dumps(content, sort_keys=False), json.dumps(shouted), json.dumps(more)]
    return [f" {token}\n", *(base64.urlsafe_b64encode(text.encode()).decode() for text in texts)]


@pytest.mark.parametrize("known", [KNOWN, {}])
def test_a_token_has_one_spelling(known: dict[str, str]) -> None:
    """It is good once, and what was used is found by its letters."""
    token = sign(ANNA, CLAIM)
    for other in respelled(token):
        assert other != token
        assert actor_of(other, CLAIM, known, NOW).token == token
    for bad in (token + "!", token[:8] + "\n" + token[8:], token + "=", token + "====", token + "é"):
        with pytest.raises(BackdropError, match="token is damaged"):
            actor_of(bad, CLAIM, known, NOW)


def test_without_keys_everybody_is_unverified() -> None:
    assert not actor_of("", CLAIM, {}, NOW).verified
    assert not actor_of(sign(ANNA, CLAIM), CLAIM, {}, NOW).verified


@pytest.mark.parametrize(
    ("claim", "signer", "message"),
    [
        (replace(CLAIM, actor="ana"), ANNA, "Unknown actor: 'ana' is not one of them. Did you mean 'anna'"),
        (CLAIM, EVE, "'anna' has not signed this token"),
        (replace(CLAIM, actor="bo"), ANNA, "'bo' has not signed this token"),
        (replace(CLAIM, action="promote"), ANNA, "The token is for: promote version 4"),
        (replace(CLAIM, bundle="ef" * 32), ANNA, "The token is for.*efefefef.*and not for.*abababab"),
        (replace(CLAIM, version="5"), ANNA, "The token is for: approve version 5"),
        (replace(CLAIM, model="backdrop-autoencoder"), ANNA, "of backdrop-autoencoder"),
        (replace(CLAIM, at=(NOW - timedelta(hours=25)).isoformat()), ANNA, "good for a day"),
        (replace(CLAIM, at=(NOW + timedelta(hours=1)).isoformat()), ANNA, "good for a day"),
        (replace(CLAIM, at="2026-03-01T12:00:00"), ANNA, "has no time"),
    ],
)
def test_a_token_that_does_not_fit_is_refused(claim: Claim, signer: Signer, message: str) -> None:
    with pytest.raises(BackdropError, match=message):
        actor_of(sign(signer, claim), CLAIM, KNOWN, NOW)


def test_a_name_alone_is_not_enough_where_keys_are() -> None:
    with pytest.raises(BackdropError, match="Unknown actor: 'anna' has not signed"):
        actor_of("", CLAIM, KNOWN, NOW)


def test_every_flipped_byte_of_a_token_is_found() -> None:
    content = base64.urlsafe_b64decode(sign(ANNA, CLAIM))
    for place in range(len(content)):
        bent = bytearray(content)
        bent[place] ^= 1
        token = base64.urlsafe_b64encode(bytes(bent)).decode()
        try:
            same = json.loads(bent) == json.loads(content)
        except ValueError:
            same = False
        if not same:
            with pytest.raises(BackdropError):
                actor_of(token, CLAIM, KNOWN, NOW)


@pytest.mark.parametrize("token", ["x", "e30=", base64.urlsafe_b64encode(b'{"claim": 1, "signature": 2}').decode()])
def test_a_damaged_token_is_one_message(token: str) -> None:
    with pytest.raises(BackdropError, match="token is damaged"):
        actor_of(token, CLAIM, KNOWN, NOW)


def test_who_may_approve_is_read_from_a_setting() -> None:
    assert approvers(f"anna={'AB' * 32}, bo={'cd' * 32},") == {"anna": "ab" * 32, "bo": "cd" * 32}
    assert approvers(None) == {}
    for bad in ("anna", f"={'ab' * 32}", "anna=abc"):
        with pytest.raises(BackdropError, match="no name and public key"):
            approvers(bad)


def test_a_row_of_the_ledger_is_an_approval_only_with_its_token() -> None:
    token = sign(ANNA, CLAIM)
    at = NOW + timedelta(minutes=1)
    row = Entry(
        APPROVED,
        CLAIM.model,
        "challenger",
        None,
        "4",
        CLAIM.bundle,
        "anna",
        True,
        "fine",
        {"token": token},
        id=1,
        at=at,
    )
    assert approved(row, KNOWN)
    assert approved(replace(row, evidence={}), {}), "without approvers a bare name is enough"
    assert not approved(replace(row, evidence={}), KNOWN)
    assert not approved(replace(row, bundle="ef" * 32), KNOWN)
    assert not approved(replace(row, actor="bo"), KNOWN)
    assert not approved(row, {"bo": KNOWN["bo"]}), "who is no approver any more does not count"
    assert not approved(replace(row, evidence={"token": sign(EVE, CLAIM)}), KNOWN)
    assert not approved(replace(row, evidence={"token": sign(ANNA, replace(CLAIM, action="promote"))}), KNOWN)
    assert not approved(replace(row, kind=REJECTED), {})
    assert not approved(None, {})
