"""Errors that a person can act on, and the exit codes that the launchers understand."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BackdropError(Exception):
    """What was wrong and where, and what to do about it.

    Its exit code says "deterministic": the same configuration and data will fail again, so nobody retries it.
    """

    exit_code = 42

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  → {self.remedy}" if self.remedy else self.what


class ServiceError(BackdropError):
    """Something outside (a database, a server, a bucket) did not answer: worth retrying."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


def nearest(word: str, known: Iterable[str]) -> str:
    """The sentence " Did you mean 'x'?" for the known word closest to `word`; empty when none is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{found[0]}'?" if found else ""
