"""Served models: POST {"image": base64 JPEG, "captions": [...]}; a score's answer is {"score": number} or {"scores":
[...]}."""

from __future__ import annotations

import base64
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import Any

import numpy as np

from assets.curation.filters.base import Picture
from assets.curation.filters.scorers import chosen_output
from assets.curation.filters.settings import ModelSection, ScorerSection
from infra.errors import BackdropError, ServiceError
from infra.images import encode_jpeg, shrink

_ATTEMPTS = 5
_LONGEST_WAIT = 30.0  # seconds
_SIDE = 512  # pixels: no scorer in use looks at more


class Endpoint:
    """Busy (429) and failing (5xx) answers are tried again after a growing pause; anything else is an error for
    people."""

    def __init__(self, section: ModelSection) -> None:
        assert section.endpoint is not None
        if not section.endpoint.startswith(("http://", "https://")):
            raise BackdropError(f"{section.endpoint} is no http or https address", "set the endpoint's full URL")
        self._section = section
        self._headers = {"Content-Type": "application/json"}
        if section.api_key_variable:
            key = os.environ.get(section.api_key_variable)
            if not key:
                raise BackdropError(f"{section.api_key_variable} is not set", "set it to the endpoint's key")
            self._headers["Authorization"] = f"Bearer {key}"

    def ask(self, picture: Picture, read: Callable[[Any], list[Any]], wanted: str, example: str) -> np.ndarray:
        """The numbers that `read` finds in the answer's JSON, float64.

        Raises BackdropError where it finds none: `wanted` was, like `example`.
        """
        image = base64.b64encode(encode_jpeg(shrink(picture.pixels, _SIDE), 95)).decode()
        answer = self._post(json.dumps({"image": image, "captions": list(picture.captions)}).encode())
        try:
            return np.asarray(read(json.loads(answer)), dtype=np.float64)
        except (ValueError, KeyError, TypeError) as error:
            what = f"{self._section.endpoint} answered {answer[:80]!r} instead of {wanted}"
            raise BackdropError(what, f"it must answer {example}") from error

    def _post(self, body: bytes) -> bytes:
        request = urllib.request.Request(self._section.endpoint or "", body, self._headers)
        problem = ""
        for attempt in range(_ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=self._section.timeout) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    what = f"{self._section.endpoint} refused a picture: {error.code} {error.reason}"
                    raise BackdropError(what, "check the endpoint's address and key") from error
                problem, pause = f"{error.code} {error.reason}", _pause(attempt, error.headers)
            except OSError as error:
                problem, pause = str(error), _pause(attempt, None)
            if attempt + 1 < _ATTEMPTS:
                time.sleep(pause)
        what = f"{self._section.endpoint} gave no score in {_ATTEMPTS} attempts: {problem}"
        raise ServiceError(what, "see to the server, then run again")


class EndpointScorer:
    """One endpoint, asked for one picture at a time."""

    def __init__(self, section: ScorerSection) -> None:
        self._section, self._endpoint = section, Endpoint(section)

    def score(self, picture: Picture) -> float:
        values = self._endpoint.ask(picture, _scores, "a score", '{"score": number}')
        return chosen_output(values, self._section)


def _scores(answer: Any) -> list[Any]:
    return answer["scores"] if "scores" in answer else [answer["score"]]


def _pause(attempt: int, headers: Message | None) -> float:
    """Seconds: what the server asks for, else a doubling pause with jitter, so that the workers do not come back
    together."""
    asked = headers.get("Retry-After", "") if headers is not None else ""
    seconds = float(asked) if asked.isdigit() else 0.25 * 2**attempt * random.uniform(0.5, 1.5)
    return min(seconds, _LONGEST_WAIT)
