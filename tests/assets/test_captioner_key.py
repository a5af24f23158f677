"""The captioner's key goes to its own service and nowhere else."""

from __future__ import annotations

import json
import logging
import threading
import traceback
from pathlib import Path

import pytest

from assets.curation.captioner import CaptionSection
from infra.errors import BackdropError, ServiceError
from infra.object_store import ObjectStore
from tests.assets.captioning import KEY, Server, answer, captioner, pictures


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
