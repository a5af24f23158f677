"""The captioner's settings, texts and waiting times, without a server."""

from __future__ import annotations

import pickle
import threading

import pytest

from assets.curation.captioner import CaptionSection, choose_captioner
from assets.curation.captions.chat import clean, read_answer
from assets.curation.captions.pace import Pace, backoff, retry_after
from infra.object_store import ObjectStore
from tests.assets.captioning import answer


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
