"""The chat messages: a picture becomes a request's body, and whatever came back becomes a text or a reason. Pure."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from assets.curation.captions.settings import CaptionSection

# A caption is two sentences; ten times that is a model that rambles or an answer to something else.
_LONGEST = 2000
_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?。!?](?=[\s\"”’)]|$)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}
# Runs that may be a picture or a key that the server repeats to us: words are shorter.
_LONG_RUN = re.compile(r"[A-Za-z0-9+/=_\-*.]{24,}")


@dataclass(frozen=True)
class Answer:
    """What one request came to: a text, or a problem and whether another request may do better."""

    text: str = ""
    problem: str = ""
    again: bool = False
    wait: float = 0.0  # seconds that the service asked for
    busy: bool = False  # the service asked for fewer requests
    refused: bool = False  # the service works and will not describe this picture
    reached: bool = True  # False: nobody was there


def request_body(section: CaptionSection, data: bytes) -> dict[str, Any]:
    """The JSON body that asks for a caption of the encoded picture `data`. Raises BadImage for other bytes."""
    from infra.images import sniff  # brings OpenCV, and the settings beside this file are read without it

    uri = f"data:image/{sniff(data)};base64,{base64.b64encode(data).decode('ascii')}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": section.prompt}]
    body = {
        "model": section.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": section.max_tokens,
        "temperature": section.temperature,
        "stream": False,
        **section.options,
    }
    return {key: value for key, value in body.items() if value is not None}


def read_answer(body: bytes) -> Answer:
    """The caption in the body of a 200."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return Answer(problem=f"the answer is not JSON ({len(body)} bytes)", again=True)
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not choices:
        return Answer(problem="the answer has no choices", again=True)
    choice: dict[str, Any] = choices[0] if isinstance(choices[0], dict) else {}
    found = choice.get("message")
    message: dict[str, Any] = found if isinstance(found, dict) else {}
    if choice.get("finish_reason") == "content_filter" or message.get("refusal"):
        return Answer(problem="the service refused to describe this picture", refused=True)
    text = clean(_plain(message.get("content")))
    if choice.get("finish_reason") == "length":
        text = _whole_sentences(text)
        if not text:
            return Answer(problem="the answer was cut off within its first sentence (max_tokens)", refused=True)
    if not text:
        return Answer(problem="the answer is empty", again=True)
    if len(text) > _LONGEST:
        return Answer(problem=f"the answer has {len(text)} characters, {_LONGEST} are the limit", again=True)
    return Answer(text)


def clean(text: str) -> str:
    """One line of NFC text without a model's thoughts, control characters and the quotes around all of it."""
    text = unicodedata.normalize("NFC", _THOUGHT.sub(" ", text))
    # Lone surrogates (legal in JSON, not in UTF-8) have category Cs.
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    text = " ".join(text.split())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text.count(text[0]) <= 2:
        text = text[1:-1].strip()
    return text if any(c.isalpha() for c in text) else ""


def said(body: bytes, secret: str) -> str:
    """What an error's body says, short enough for a verdict, without `secret` and without long runs like a key."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""  # a proxy's HTML page says nothing
    error = value.get("error", value) if isinstance(value, dict) else {}
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    if not isinstance(message, str):
        return ""
    if secret:
        message = message.replace(secret, "…")
    return clean(_LONG_RUN.sub("…", message))[:200]


def _plain(content: Any) -> str:
    """Message content is a string, or a list of parts of which the text ones count."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _whole_sentences(text: str) -> str:
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
