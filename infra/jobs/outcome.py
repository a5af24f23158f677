"""How a job ended, told to a person."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from infra.errors import BackdropError, ServiceError
from infra.jobs.folder import Exit, JobFolder

# Wrong usage, and wrong configuration or data: the same again would end the same.
_DETERMINISTIC = {2, BackdropError.exit_code}


class JobFailed(BackdropError):
    """A job ended without a result.

    ``job_exit_code`` is its exit code (negative: the signal that killed it; None: not known). ``retryable``
    is false for what would fail again: wrong configuration or data, a job that reported nothing. ``log`` says
    where its log is.
    """

    def __init__(
        self,
        what: str,
        remedy: str,
        *,
        job_exit_code: int | None,
        retryable: bool,
        log: str,
        log_tail: str = "",
    ) -> None:
        super().__init__(what, remedy)
        self.job_exit_code = job_exit_code
        self.retryable = retryable
        self.log = log
        self.log_tail = log_tail
        self.exit_code = ServiceError.exit_code if retryable else BackdropError.exit_code


def failure_of(
    title: str, folder: JobFolder, code: int | None, exit: Exit | None, said: Mapping[str, Any] | None
) -> JobFailed | None:
    """What to raise for a job that ended with ``code`` (None: nobody knows); None for 0.

    Its own words come first: from ``exit``, or where they did not reach the folder from the channel
    (``said``).
    """
    if code == 0:
        return None
    what, remedy = (exit.what, exit.remedy) if exit is not None else ("", "")
    if not what and said is not None:
        what, remedy = said["what"], said["remedy"]
    retryable = code not in _DETERMINISTIC
    if what:
        return job_failed(title, folder, f"failed: {what}", remedy, code, retryable)
    if folder.is_full():
        return job_failed(title, folder, f"failed: disk full at {folder.path}", "free some space", code, False)
    if code is None:
        what, remedy = "ended without an exit (killed, or the machine went down)", "run it again: it resumes"
    elif code < 0:
        name = signal.Signals(-code).name
        hint = "; was there enough memory?" if name == "SIGKILL" else ""
        what, remedy = f"was killed by {name}", f"run it again: it resumes{hint}"
    else:
        what, remedy = f"exited with code {code}", "see the end of its log"
    return job_failed(title, folder, what, remedy, code, retryable, show_log=True)


def job_failed(
    title: str,
    folder: JobFolder,
    what: str,
    remedy: str,
    code: int | None,
    retryable: bool,
    show_log: bool = False,
) -> JobFailed:
    """The error, with where its log is, and the log's end where the job itself said nothing."""
    tail = folder.log_tail()
    shown = f"\n{tail}" if show_log and tail else ""
    where = f"log: {folder.log}{shown}"
    return JobFailed(
        f"the {title} job {what}",
        f"{remedy}; {where}" if remedy else where,
        job_exit_code=code,
        retryable=retryable,
        log=str(folder.log),
        log_tail=tail,
    )
