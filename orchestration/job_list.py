"""Jobs wherever they run: processes of this machine by their folders, and Jobs of a cluster by its API server.

Here      <state>/jobs/<key>/{handle,exit}.json, log.txt
Cluster   the Jobs that the launcher labels; their handles and logs lie in the object store
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from infra.errors import BackdropError, ServiceError, nearest
from infra.jobs.folder import JobFolder
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.jobs.handle import Handle
    from infra.jobs.kubernetes.api import Api
    from infra.object_store import ObjectStore

RUNNING, SUCCEEDED, FAILED, KILLED, UNREADABLE = "running", "succeeded", "failed", "killed", "unreadable"
ENDED = frozenset({SUCCEEDED, FAILED, KILLED, UNREADABLE})
PATIENCE_S = 60.0
"""For so long a cluster or a store may be silent while a log is followed."""
_TAIL_BYTES = 256_000


@dataclass(frozen=True)
class JobRow:
    """A job's newest launch.

    `state`: running, succeeded, failed, killed (it ended without a word) or unreadable; on a cluster also queued and
    starting. `process`: its pid, or the Job's name. `said`: why it is so. `watched`: whether somebody hears it: a job
    that nobody hears is adopted by the next run that wants the same.
    """

    key: str
    where: str
    state: str
    what: str
    attempt: int
    started_at: str
    run: str
    process: str
    code: int | None
    said: str
    watched: bool
    log: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Place(Protocol):
    """Where jobs run; `poll_s`: how often it may be asked. What does not answer raises ServiceError."""

    @property
    def poll_s(self) -> float: ...

    def rows(self) -> list[JobRow]: ...

    def now(self, row: JobRow) -> JobRow | None:
        """The same job as it is now; None where it is no more."""

    def read_log(self, row: JobRow, rank: int) -> bytes | None:
        """The end of what it printed; None where there is nothing (yet)."""

    def cancel(self, row: JobRow) -> None: ...


class Here:
    """This machine."""

    poll_s = 0.3

    def __init__(self, state: Path) -> None:
        self._state = state

    def rows(self) -> list[JobRow]:
        return [_row_of(JobFolder(path.parent)) for path in (self._state / "jobs").glob("*/handle.json")]

    def now(self, row: JobRow) -> JobRow | None:
        folder = JobFolder(Path(row.log).parent)
        return _row_of(folder) if folder.handle.exists() else None

    def read_log(self, row: JobRow, rank: int) -> bytes | None:
        if rank:
            raise BackdropError("a job of this machine has one log for all its ranks", "leave --rank out")
        try:
            with Path(row.log).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
                return file.read()
        except FileNotFoundError:
            return None

    def cancel(self, row: JobRow) -> None:
        from infra.jobs.handle import end_job, read_handle

        handle = read_handle(JobFolder(Path(row.log).parent))
        if handle is not None:
            end_job(handle)


class Cluster:
    """The cluster that the settings describe."""

    poll_s = 3.0

    def __init__(self, api: Api, store: ObjectStore) -> None:
        self._api, self._store = api, store

    def rows(self) -> list[JobRow]:
        with _answering():
            return [self._row(job) for job in self._api.jobs()]

    def now(self, row: JobRow) -> JobRow | None:
        from infra.jobs.kubernetes.api import Missing
        from infra.jobs.kubernetes.handle import read_handle

        with _answering():
            handle = read_handle(self._store, row.key)
            name = handle.job_name if handle is not None else row.process
            try:
                return self._row(self._api.job(name))
            except Missing:  # the handle is written before its Job is made: that one may still be on the way
                return row if handle is not None and not handle.ended and name != row.process else None

    def read_log(self, row: JobRow, rank: int) -> bytes | None:
        from infra.jobs.kubernetes.handle import read_handle

        handle = read_handle(self._store, row.key)
        if handle is None:
            return None
        incarnations = [key for key in self._store.list(f"{handle.logs}/{rank:05d}/") if key.endswith(".txt")]
        return self._store.get(max(incarnations))[-_TAIL_BYTES:] if incarnations else None

    def cancel(self, row: JobRow) -> None:
        from infra.jobs.kubernetes.launcher import CANCEL_GRACE_S

        self._api.delete_job(row.process, CANCEL_GRACE_S)

    def _row(self, job: Any) -> JobRow:
        from infra.jobs.kubernetes.build import ASSET_LABEL, KEY_ANNOTATION, RUN_LABEL
        from infra.jobs.kubernetes.handle import read_handle
        from infra.jobs.kubernetes.state import reduce

        labels, key = job.metadata.labels or {}, (job.metadata.annotations or {}).get(KEY_ANNOTATION, "")
        state = reduce(job)
        if not state.ended:  # what holds it up is known to its pods and the queue
            name = job.metadata.name
            state = reduce(job, self._api.pods(name, most=100), self._api.events(name), self._api.workload(job))
        handle = read_handle(self._store, key) if key else None
        return JobRow(
            key=key or job.metadata.name,
            where="cluster",
            state=str(state.phase),
            what=labels.get(ASSET_LABEL, ""),
            attempt=handle.attempt if handle is not None else 1,
            started_at=job.metadata.creation_timestamp.isoformat(timespec="seconds"),
            run=labels.get(RUN_LABEL, ""),
            process=job.metadata.name,
            code=None,
            said=", ".join(filter(None, [state.reason, *([f"on {', '.join(state.nodes)}"] if state.nodes else [])])),
            watched=True,
            log=f"{self._store.uri}/{handle.logs}" if handle is not None else "",
        )


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Raises ServiceError where the API server does not answer."""
    from infra.jobs.kubernetes.api import Away

    try:
        yield
    except Away as away:
        raise ServiceError(f"the cluster does not answer: {away}", "run the same command again") from None


def places(settings: Settings) -> list[Place]:
    """Everywhere that jobs may run."""
    found: list[Place] = [Here(settings.state)]
    if settings.launcher == "kubernetes":
        from assets.line import Line
        from infra.jobs.kubernetes.launcher import KubernetesLauncher

        line = Line()
        if isinstance(line.launcher, KubernetesLauncher):
            found.append(Cluster(line.launcher.api, line.store))
    return found


def every_job(where: Sequence[Place]) -> list[tuple[Place, JobRow]]:
    """All of them, the one that began last first."""
    found = [(place, row) for place in where for row in place.rows()]
    return sorted(found, key=lambda one: (one[1].started_at, one[1].key), reverse=True)


def find_job(where: Sequence[Place], key: str) -> tuple[Place, JobRow]:
    """The job of this key, or the only one whose key begins so. Raises BackdropError where there is not one."""
    jobs = every_job(where)
    named = [one for one in jobs if one[1].key == key] or [one for one in jobs if key and one[1].key.startswith(key)]
    keys = list(dict.fromkeys(row.key for _, row in named))
    if len(keys) == 1:  # tried again, a cluster keeps its earlier attempts for a while
        return next((one for one in named if not one[1].ended), named[0])
    if keys:
        raise BackdropError(f"{len(keys)} jobs begin with {key!r}", f"it is one of {', '.join(keys[:8])}")
    raise BackdropError(
        f"there is no job {key!r}.{nearest(key, [row.key for _, row in jobs])}", "`backdrop jobs list` names them"
    )


def log_lines(where: Sequence[Place], key: str, lines: int, rank: int, follow: bool) -> Iterator[str]:
    """The last `lines` of a job's log and, with `follow`, what it prints until it has ended.

    Raises ServiceError where nobody has answered for PATIENCE_S while it is followed.
    """
    place, row = find_job(where, key)
    before = place.read_log(row, rank)
    if before is None and not follow:
        raise BackdropError(f"{row.key} has no log (any more)", f"it would be {row.log or 'in the object store'}")
    seen = before or b""
    whole, _, rest = seen.rpartition(b"\n")
    yield from _text(whole).splitlines()[-lines:] if whole and lines else []
    silent_since = None
    while follow and not row.ended:
        time.sleep(place.poll_s)
        try:
            found = place.now(row)
            if found is None:  # deleted while it was followed
                break
            now = place.read_log(found, rank) or b""
        except ServiceError:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since >= PATIENCE_S:
                raise
            continue
        row, silent_since = found, None
        rest += _news(seen, now)
        seen = now
        whole, _, rest = rest.rpartition(b"\n")
        yield from _text(whole).splitlines() if whole else []
    if rest:
        yield _text(rest)


def _news(before: bytes, now: bytes) -> bytes:
    """What has come since: both are the ends of one growing text, or `now` is another one's."""
    if now.startswith(before):
        return now[len(before) :]
    anchor = before[-2000:]
    at = now.rfind(anchor) if anchor else -1
    return now[at + len(anchor) :] if at >= 0 else now


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _row_of(folder: JobFolder) -> JobRow:
    from infra.jobs.handle import read_handle

    try:
        handle = read_handle(folder)
    except BackdropError as error:
        handle, problem = None, error.what
    else:
        problem = "its handle has just gone"
    if handle is None:
        log = str(folder.log)
        return JobRow(folder.path.name, "here", UNREADABLE, "", 0, "", "", "", None, problem, False, log)
    state, code, said = _state_of(folder, handle)
    return JobRow(
        key=handle.key,
        where="here",
        state=state,
        what=f"{handle.room} {handle.verb}",
        attempt=handle.attempt,
        started_at=handle.created_at,
        run=handle.run_id,
        process=str(handle.process.pid) if handle.process is not None else "",
        code=code,
        said=said,
        watched=state == RUNNING and handle.watcher.alive,
        log=str(folder.log),
    )


def _state_of(folder: JobFolder, handle: Handle) -> tuple[str, int | None, str]:
    """(state, exit code, what it said of it)."""
    exit = folder.read_exit(handle.launch)
    if exit is None and handle.find_process() is not None:
        return RUNNING, None, ""
    exit = exit or folder.read_exit(handle.launch)  # it may have ended between the two
    if exit is not None:
        return (SUCCEEDED if exit.code == 0 else FAILED), exit.code, exit.what
    return KILLED, None, "it ended without an exit: killed, or the machine went down"
