"""New captions for pictures, from a vision model behind an OpenAI-compatible endpoint.

A batch goes out with many requests at once, and every answer is stored under its picture's hash as soon as it is there:
whoever is killed and starts again asks only for what is missing. A picture that cannot be described comes back with a
problem; a service that is away comes back as one error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

from assets.curation.captions.chat import Answer
from assets.curation.captions.endpoint import Endpoint
from assets.curation.captions.pace import Pace, Stopped, backoff
from assets.curation.captions.settings import CaptionSection
from infra.errors import ServiceError
from infra.files import canonical_json
from infra.object_store import ObjectMissing, ObjectStore

__all__ = ["Caption", "CaptionSection", "Captioner", "OpenAICaptioner", "choose_captioner", "forget_captions"]

CACHE = "captions/"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caption:
    """A picture's new caption; without one, `text` is empty and `problem` says why."""

    image_id: str
    text: str
    problem: str = ""


class Captioner(Protocol):
    """Describes pictures."""

    name: str  # what the catalog records as the captions' source

    def caption(self, pictures: Sequence[tuple[str, bytes]]) -> list[Caption]:
        """Captions for (image id, encoded picture), in order. The bytes leave the house: they must be stripped ones.

        Raises ServiceError when the service is away; what was answered before is kept.
        """


def choose_captioner(section: CaptionSection, store: ObjectStore) -> Captioner | None:
    """The captioner that the settings name; None where they name none."""
    return OpenAICaptioner(section, store) if section.url else None


class OpenAICaptioner:
    """A client of `/v1/chat/completions`; its cache are the objects `captions/<model hash>/<image id>.json`.

    Only captions are cached: a problem is asked about again by the next run. One per process; the rate limit holds
    within it. Threads may share it.
    """

    def __init__(self, section: CaptionSection, store: ObjectStore) -> None:
        self.name = f"{section.model}@{section.model_hash}"
        self._section = section
        self._store = store
        self._pace = Pace(section.rate)
        self._failed_in_a_row = 0
        self._lock = threading.Lock()

    def caption(self, pictures: Sequence[tuple[str, bytes]]) -> list[Caption]:
        """See :class:`Captioner`. Also raises BackdropError for a key that is missing or refused, an unknown model."""
        found: dict[str, Caption] = {}
        stop = threading.Event()
        with Endpoint(self._section) as endpoint, ThreadPoolExecutor(self._section.concurrency, "captions") as pool:
            tasks = [pool.submit(self._one, endpoint, *one, stop) for one in dict(pictures).items()]
            try:
                for task in as_completed(tasks):
                    with contextlib.suppress(Stopped):  # why it was stopped comes with the task that failed
                        caption = task.result()
                        found[caption.image_id] = caption
            finally:  # of use only when something was raised: those that wait wake up, those that queue never start
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        problems = [caption for caption in found.values() if caption.problem]
        if problems:
            first = f"{problems[0].image_id[:12]}: {problems[0].problem}"
            _log.warning("%d of %d pictures got no caption; the first, %s", len(problems), len(found), first)
        return [found[image_id] for image_id, _ in pictures]

    def _one(self, endpoint: Endpoint, image_id: str, data: bytes, stop: threading.Event) -> Caption:
        key = f"{CACHE}{self._section.model_hash}/{image_id}.json"
        try:
            if text := self._cached(key):
                return Caption(image_id, text)
            answer = self._persist(endpoint, data, stop)
            if answer.text:
                entry = {"image": image_id, "model": self._section.model, "caption": answer.text}
                self._store.put(key, canonical_json(entry))
        except BaseException:
            stop.set()  # here, not when the batch hears of it: no further request leaves
            raise
        return Caption(image_id, answer.text, answer.problem)

    def _cached(self, key: str) -> str:
        try:
            entry = json.loads(self._store.get(key))
            return str(entry["caption"])
        except (ObjectMissing, ValueError, KeyError, TypeError):  # an entry that does not read is none
            return ""

    def _persist(self, endpoint: Endpoint, data: bytes, stop: threading.Event) -> Answer:
        """Ask until there is a text, no hope, or no attempt left."""
        section = self._section
        for attempt in range(1, section.attempts + 1):
            left = self._pace.wait(stop)
            answer = endpoint.ask(data)
            if not answer.busy:
                self._pace.speed_up()
            if not answer.again:
                break
            if answer.wait > section.max_wait_s:
                raise self._away(f"it asks for a pause of {answer.wait:.0f} s ({answer.problem})")
            pause = max(answer.wait, backoff(attempt, section.backoff_s, section.max_wait_s))
            if answer.busy:
                self._pace.slow_down(answer.wait, left)
            if attempt < section.attempts and stop.wait(pause):
                raise Stopped
        self._count(answer)
        return answer

    def _count(self, answer: Answer) -> None:
        if not answer.reached:
            raise self._away(f"{self._section.attempts} attempts in a row did not reach it: {answer.problem}")
        with self._lock:
            self._failed_in_a_row = 0 if answer.text or answer.refused else self._failed_in_a_row + 1
            failed = self._failed_in_a_row
        if failed >= self._section.away_after:
            raise self._away(f"it failed {failed} pictures in a row, the last one so: {answer.problem}")

    def _away(self, why: str) -> ServiceError:
        return ServiceError(
            f"the captioner at {self._section.endpoint} is away: {why}",
            "see whether the server runs and answers, then run again: captions that were made are kept",
        )


def forget_captions(store: ObjectStore, image_ids: Iterable[str]) -> int:
    """Deletes the cached captions of these pictures, whatever model made them (a takedown). Says how many."""
    ids = list(image_ids)
    found = [key for folder in _models(store) for one in ids if store.exists(key := f"{folder}{one}.json")]
    for key in found:
        store.delete(key)
    return len(found)


def _models(store: ObjectStore) -> list[str]:
    """The cache's folders, one per model hash: each is found by its first key, however many it holds."""
    folders: list[str] = []
    after = ""
    while key := next(iter(store.list(CACHE, after)), None):
        folders.append(key[: key.index("/", len(CACHE)) + 1])
        after = folders[-1] + "~"  # sorts behind the hexadecimal names in that folder
    return folders
