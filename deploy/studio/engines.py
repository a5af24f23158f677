"""The champion, hot-swapped as its alias moves, and the challenger while somebody asks for it.

poll aliases ─► open the new one beside the old ─► try it ─► swap ─► the old one's last request ends ─► close it
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from deploy.registry import CHALLENGER, CHAMPION, TAINT_TAG, ModelVersion
from deploy.studio.opened import Opened, Source
from deploy.studio.refusal import Refusal
from deploy.studio.slots import Slot
from infra.errors import BackdropError

log = logging.getLogger(__name__)

RETRY_SECONDS = 30
"""After an engine did not open: the catalog's row or the store may come later."""
NO_CHAMPION = "There is no champion yet."
WHAT_TO_DO = "`make run` trains one, and promotes the first that passes; this page then works by itself."

Told = Callable[[str, str, bool], None]
"""Hears of each engine that was to be opened: alias, version, whether it did."""


class Engines:
    """`start` watches the registry in a thread of its own; `poll` is one look."""

    def __init__(
        self, source: Source, *, idle_seconds: float, told: Told = lambda alias, version, opened: None
    ) -> None:
        self._source, self._idle_seconds, self._told = source, idle_seconds, told
        self._slots = {CHAMPION: Slot(), CHALLENGER: Slot()}
        self._known: Mapping[str, ModelVersion] = {}
        self._reached = False
        self._problem = "The registry has not been asked yet."
        self._failed: dict[str, float] = {}  # bundle → when it did not open
        # One each: a challenger that takes its time must not hold up a promotion.
        self._opening = {alias: threading.Lock() for alias in self._slots}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> Mapping[str, ModelVersion]:
        """The aliases as they were at the last look."""
        return self._known

    @property
    def problem(self) -> str:
        """What the last look found wrong; empty when all is well."""
        return self._problem

    @property
    def taint(self) -> str:
        """Why the open champion has to go: it was trained on what was taken down since. Empty: it need not."""
        champion, known = self.current(CHAMPION), self._known.get(CHAMPION)
        if champion is None:
            return ""
        newest = known if known is not None and known.bundle == champion.version.bundle else champion.version
        return newest.tags.get(TAINT_TAG, "")

    def current(self, alias: str) -> Opened | None:
        """The engine that is open under an alias."""
        return self._slots[alias].current

    @contextmanager
    def lease(self, alias: str) -> Iterator[Opened]:
        """An engine that stays open until this ends. Raises Refusal where there is none."""
        with self._slots[alias].lease() as opened:
            if opened is None:
                raise self._none(alias)
            yield opened

    def ensure(self, alias: str) -> None:
        """Opens the challenger, where it is asked for. Raises Refusal: no such alias, or it cannot be opened."""
        if alias == CHAMPION:
            if self.current(CHAMPION) is None:
                raise self._none(CHAMPION)
            return
        version, champion = self._known.get(CHALLENGER), self.current(CHAMPION)
        if version is None:
            raise self._none(CHALLENGER)
        if champion is not None and champion.version.bundle == version.bundle:
            raise Refusal(
                409,
                "challenger",
                f"The challenger is champion now: version {version.version} is both.",
                "There is something to compare when the line has trained the next one.",
            )
        if not self._open(CHALLENGER, version):
            raise Refusal(
                409, "challenger", f"The challenger, version {version.version}, cannot be opened.", "The log says why."
            )

    def poll(self) -> None:
        """One look at the registry: swaps what moved, closes a challenger that nobody asks."""
        try:
            found = self._source.aliases()
        except Exception as error:  # the server, the network, an alias of a version that is gone
            said = error.what if isinstance(error, BackdropError) else f"{type(error).__name__}"
            self._problem = f"The registry does not answer: {said}"
            if self._reached:
                log.warning("the registry cannot be read, engines stay as they are: %s", error)
            self._reached = False
            return
        self._known, self._reached = found, True
        champion = found.get(CHAMPION)
        if champion is None:
            self._problem = NO_CHAMPION if self.current(CHAMPION) is None else "The champion's alias is not set."
        elif self._open(CHAMPION, champion):
            self._problem = ""
        else:
            self._problem = f"Version {champion.version}, the champion, cannot be opened; the log says why."
        challenger = self._slots[CHALLENGER]
        held = challenger.current
        if held is not None and (challenger.idle > self._idle_seconds or _moved(found.get(CHALLENGER), held)):
            challenger.swap(None)

    def start(self, seconds: float = 2.0) -> None:
        """Looks every `seconds`, until `stop`."""

        def watch() -> None:
            while not self._stop.is_set():
                try:
                    self.poll()
                except Exception:  # the watch goes on whatever happens
                    log.exception("looking at the registry failed")
                self._stop.wait(seconds)

        self._thread = threading.Thread(target=watch, name="registry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch and closes the engines."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        for slot in self._slots.values():
            slot.swap(None)

    def _open(self, alias: str, version: ModelVersion) -> bool:
        """Whether `version` is what is open under `alias`, opened now if it was not."""
        slot = self._slots[alias]
        with self._opening[alias]:
            if slot.current is not None and slot.current.version.bundle == version.bundle:
                if alias == CHALLENGER:
                    slot.touch()  # who asks for it waits in the queue next, and must find it open
                return True
            if time.monotonic() - self._failed.get(version.bundle, -RETRY_SECONDS) < RETRY_SECONDS:
                return False
            try:
                new = self._source.open(version)
            except Exception as error:  # whatever is wrong with it, the one that serves goes on
                self._failed[version.bundle] = time.monotonic()
                log.error("version %s (%s) does not open, who serves stays: %s", version.version, alias, error)
                self._told(alias, version.version, False)
                return False
            self._failed.pop(version.bundle, None)
            slot.swap(new)
        log.info("%s is version %s now", alias, version.version)
        self._told(alias, version.version, True)
        return True

    def _none(self, alias: str) -> Refusal:
        if alias == CHAMPION:
            return Refusal(503, "no champion", self._problem or NO_CHAMPION, WHAT_TO_DO, {"Retry-After": "10"})
        return Refusal(
            409, "challenger", "There is no challenger.", "It comes with the next training; ask for side=champion."
        )


def _moved(version: ModelVersion | None, held: Opened) -> bool:
    return version is None or version.bundle != held.version.bundle
