"""Messages to a webhook and by mail, against local receivers that behave well and ill."""

from __future__ import annotations

import hashlib
import hmac
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import BackdropError
from infra.notify import Email, NotDelivered, Notice, Webhook, destinations, harmless, secret, signed
from infra.settings import Settings
from tests.infra.receivers import Hook, Mailbox, certificate, mail_server, webhook

NOTICE = Notice("run-failed:abc#1", "[Backdrop] run abc failed", "run abc failed\nsince noon", {"kind": "run-failed"})


@pytest.fixture
def hook() -> Iterator[Hook]:
    with webhook() as found:
        yield found


# ── webhook ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_post_is_what_chat_servers_take_with_our_fields_beside_it(hook: Hook) -> None:
    Webhook(f"{hook.url}/hooks/abc").send(NOTICE)
    assert hook.posts == [{"text": NOTICE.text, "key": NOTICE.key, "kind": "run-failed"}]
    headers, _ = hook.raw[0]
    assert headers["Content-Type"].startswith("application/json")
    assert headers["Idempotency-Key"] == "run-failed:abc#1"
    assert "X-Backdrop-Signature" not in headers


def test_a_signature_is_over_time_and_body(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", "s3cret\n")
    Webhook(hook.url, "env:HOOK_KEY").send(NOTICE)
    headers, body = hook.raw[0]
    stamp = headers["X-Backdrop-Timestamp"]
    assert abs(int(stamp) - time.time()) < 60
    expected = hmac.new(b"s3cret", stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-Backdrop-Signature"] == f"sha256={expected}"
    assert signed(body, "other", int(stamp))["X-Backdrop-Signature"] != headers["X-Backdrop-Signature"]


@pytest.mark.parametrize(
    ("answer", "away", "words"),
    [
        (500, True, "answers 500"),
        (503, True, "answers 503"),
        (429, True, "answers 429"),
        (404, False, "answers 404"),
        (400, False, "answers 400"),
        ("hang up", True, "RemoteDisconnected"),
        ("silent", True, "no answer in time|has not answered"),
        ("drip", True, "has not answered"),
    ],
)
def test_what_was_not_taken_says_why(hook: Hook, answer: object, away: bool, words: str) -> None:
    hook.answers = [answer]
    began = time.monotonic()
    with pytest.raises(NotDelivered, match=words) as caught:
        Webhook(f"{hook.url}/token-in-the-path", seconds=0.5).send(NOTICE)
    assert caught.value.away is away
    assert "token-in-the-path" not in str(caught.value)
    assert time.monotonic() - began < 3
    assert hook.posts == []


def test_redirects_are_not_followed(hook: Hook) -> None:
    with webhook() as other:
        for status in (301, 302, 303, 307, 308):
            hook.answers = [(status, {"Location": f"{other.url}/elsewhere"})]
            with pytest.raises(NotDelivered, match=f"answers {status}: redirects are not followed"):
                Webhook(hook.url).send(NOTICE)
        assert other.posts == []
        assert other.gets == 0


def test_a_receiver_may_ask_for_time(hook: Hook) -> None:
    hook.answers = [(429, {"Retry-After": "120"}), (429, {"Retry-After": "soon"})]
    for wait in (120, 0):
        with pytest.raises(NotDelivered) as caught:
            Webhook(hook.url).send(NOTICE)
        assert caught.value.wait == wait


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NotDelivered, match=r"127\.0\.0\.1: Connection refused") as caught:
        Webhook(f"http://127.0.0.1:{port}/secret").send(NOTICE)
    assert caught.value.away


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://host/x", "no address to post to"),
        ("hooks.example.com/x", "no address to post to"),
        ("https://host:port/x", "no address to post to"),
        ("https://host/a b", "no address to post to"),
        ("http://hooks.example.com/x", "without encryption"),
        ("https://user:pass@host/x", "has a user or password"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused_before_anything_is_sent(address: str, words: str) -> None:
    with pytest.raises(BackdropError, match=words) as caught:
        Webhook(address)
    assert "pass@" not in str(caught.value)


def test_http_to_another_machine_has_to_be_allowed() -> None:
    Webhook("http://chat.internal/x", http=True)
    Webhook("http://[::1]:8080/x")


def test_a_secret_address_lies_elsewhere(hook: Hook, tmp_path: Path) -> None:
    place = tmp_path / "hook"
    place.write_text(f"{hook.url}/T0/B0/secret\n")
    place.chmod(0o600)
    Webhook(f"file:{place}").send(NOTICE)
    assert len(hook.posts) == 1
    place.write_text("http://chat.example.com/T0/B0/secret")
    with pytest.raises(BackdropError, match="without encryption") as caught:
        Webhook(f"file:{place}").send(NOTICE)
    assert "T0" not in str(caught.value)


def test_nobody_is_called_by_what_an_error_says(hook: Hook) -> None:
    said = "step failed: <!channel> @here @all, ask <https://evil|the admin>, mail anna@example.com about @champion"
    Webhook(hook.url).send(Notice("k", "s", said))
    text = hook.posts[0]["text"]
    assert "<" not in text
    assert "@here" not in text
    assert "@all" not in text
    assert "anna@example.com about @champion" in text
    assert harmless("plain") == "plain"


def test_a_long_text_is_cut(hook: Hook) -> None:
    Webhook(hook.url).send(Notice("k", "s", "x" * 100_000))
    assert len(hook.posts[0]["text"]) == 3500
    assert len(hook.raw[0][1]) < 5000


def test_a_key_of_any_characters_is_a_header(hook: Hook) -> None:
    Webhook(hook.url).send(Notice("drift:día\r\nX: y#1", "s", "t"))
    assert hook.raw[0][0]["Idempotency-Key"] == "drift:d%C3%ADa%0D%0AX%3A%20y#1".replace("%3A", ":")
    assert hook.posts[0]["key"] == "drift:día\r\nX: y#1"


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_secrets_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", " value \n")
    assert secret("env:A_SECRET", "X") == "value"
    place = tmp_path / "key"
    place.write_text("from a file\n")
    place.chmod(0o640)
    assert secret(f"file:{place}", "X") == "from a file"
    place.chmod(0o644)
    with pytest.raises(BackdropError, match="open to everyone"):
        secret(f"file:{place}", "X")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("env:NOT_SET_ANYWHERE", "empty secret"),
        ("file:/not/there", "cannot be read: No such file"),
        ("hunter2", "is no"),
    ],
)
def test_a_missing_secret_is_named_and_never_shown(reference: str, words: str) -> None:
    with pytest.raises(BackdropError, match=words) as caught:
        secret(reference, "BACKDROP_SMTP_PASSWORD")
    assert "hunter2" not in str(caught.value)


# ── mail ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_mail_through_a_relay_on_this_machine() -> None:
    with mail_server(Mailbox()) as box:
        server = Email("anna@example.com, ops@example.com", f"smtp://127.0.0.1:{box.port}", sender="line@example.com")
        server.send(NOTICE)
        server.send(NOTICE)
    first, second = box.mails
    assert first["Subject"] == "[Backdrop] run abc failed"
    assert first["From"] == "line@example.com"
    assert first.get_content().split() == NOTICE.text.split()
    assert box.recipients[0] == ["anna@example.com", "ops@example.com"]
    assert first["Message-ID"] == second["Message-ID"], "a repetition can be told"


def test_mail_is_encrypted_and_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    for scheme, tls in (("smtp", False), ("smtps", True)):
        with mail_server(Mailbox(login="line@example.com:s3cret"), context, tls) as box:
            monkeypatch.setenv("MAIL_PASSWORD", "s3cret")
            url = f"{scheme}://line%40example.com@127.0.0.1:{box.port}"
            Email("anna@example.com", url, "env:MAIL_PASSWORD").send(NOTICE)
            assert box.encrypted == [True]
            assert box.mails[0]["From"] == "line@example.com"
            monkeypatch.setenv("MAIL_PASSWORD", "wrong-one")
            with pytest.raises(NotDelivered, match=r"refuses the login \(535\)") as caught:
                Email("anna@example.com", url, "env:MAIL_PASSWORD").send(NOTICE)
            assert "wrong-one" not in str(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path)
    with mail_server(Mailbox(), context) as box, pytest.raises(NotDelivered, match="certificate is not trusted"):
        Email("anna@example.com", f"smtp://127.0.0.1:{box.port}").send(NOTICE)
    assert box.mails == []


def test_without_starttls_nothing_leaves_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.notify.is_here", lambda host: False)
    with mail_server(Mailbox()) as box, pytest.raises(NotDelivered, match="offers no STARTTLS"):
        Email("anna@example.com", f"smtp://127.0.0.1:{box.port}").send(NOTICE)
    assert box.mails == []


@pytest.mark.parametrize(
    ("box", "away", "words"),
    [
        (Mailbox(answer="451 later"), True, "answers 451"),
        (Mailbox(answer="554 spam"), False, "answers 554"),
        (Mailbox(refuse=("anna@example.com",)), False, "takes none of the recipients"),
    ],
)
def test_mail_that_was_not_taken_says_why(box: Mailbox, away: bool, words: str) -> None:
    with mail_server(box), pytest.raises(NotDelivered, match=words) as caught:
        Email("anna@example.com", f"smtp://127.0.0.1:{box.port}").send(NOTICE)
    assert caught.value.away is away


def test_one_recipient_who_is_gone_does_not_keep_it_from_the_others() -> None:
    with mail_server(Mailbox(refuse=("gone@example.com",))) as box:
        Email("gone@example.com,anna@example.com", f"smtp://127.0.0.1:{box.port}").send(NOTICE)
    assert box.recipients == [["anna@example.com"]]


def test_a_mail_server_that_is_silent_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NotDelivered) as caught:
        Email("anna@example.com", f"smtp://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3).send(NOTICE)
    assert caught.value.away


def test_a_subject_is_one_line() -> None:
    with mail_server(Mailbox()) as box:
        server = Email("anna@example.com", f"smtp://127.0.0.1:{box.port}")
        server.send(Notice("k", "one\r\nBcc: evil@example.com", "text\r\n.\r\nmore"))
    assert box.mails[0]["Subject"] == "one Bcc: evil@example.com"
    assert box.mails[0]["Bcc"] is None
    assert "more" in box.mails[0].get_content()


@pytest.mark.parametrize(
    ("to", "server", "password", "words"),
    [
        ("anna", "smtp://host", None, "BACKDROP_ALERT_EMAIL has 'anna'"),
        ("anna@x, <b@y>", "smtp://host", None, "BACKDROP_ALERT_EMAIL"),
        ("anna@x", None, None, "BACKDROP_SMTP is empty"),
        ("anna@x", "http://host", None, "BACKDROP_SMTP"),
        ("anna@x", "smtp://u:hunter2@host", None, "has a password in it"),
        ("anna@x", "smtp://u@host", None, "a user and no password"),
    ],
)
def test_mail_settings_that_cannot_be_right_are_refused(
    to: str, server: str | None, password: str | None, words: str
) -> None:
    with pytest.raises(BackdropError, match=words) as caught:
        Email(to, server, password)
    assert "hunter2" not in str(caught.value)


def test_the_settings_name_the_destinations() -> None:
    assert destinations(Settings.load({})) == []
    given = {
        "BACKDROP_ALERT_WEBHOOK": "env:HOOK",
        "BACKDROP_ALERT_EMAIL": "anna@example.com",
        "BACKDROP_SMTP": "smtps://line@mail.example.com",
        "BACKDROP_SMTP_PASSWORD": "env:MAIL",
    }
    assert [one.name for one in destinations(Settings.load(given))] == ["webhook", "email"]
