"""The job's side: ``python -m <room> <verb> --spec <uri>`` runs one verb on one spec, by hand or for a
launcher.

A room's ``__main__.py`` is a table of verbs and one call of :func:`main`. Verbs are named by strings, so that
listing them imports nothing heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, NoReturn, TypeVar

from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes
from infra.jobs.channel import Channel, ConsoleChannel, SilentChannel
from infra.jobs.folder import Exit, JobFolder, job_folder, safe_key
from infra.jobs.process import EPHEMERAL_VARIABLE, LAUNCH_VARIABLE, SLICE_VARIABLE, SLICES_VARIABLE
from infra.jobs.ranks import forked, place
from infra.jobs.spec import JobResult, JobSpec, parse_spec
from infra.object_store import ObjectStore, open_store, read_uri
from infra.overlay import OverlayStore
from infra.sources import ROOMS

S = TypeVar("S", bound=JobSpec)

PROGRESS_INTERVAL_S = 0.2


class Preempted(SystemExit):
    """Raised in the main thread by SIGTERM: save what is needed to go on from here, and let it pass."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@dataclass(frozen=True)
class Verb:
    """One thing a room can do. ``spec`` and ``run`` are "module:name" of the spec's class and of ``run(spec,
    job)``.
    """

    spec: str
    run: str
    help: str


@dataclass
class JobContext(Generic[S]):
    """What a job's ``run(spec, job)`` works with.

    ``folder`` is local, private and locked: checkpoints live there and survive kill -9 of the job. What
    others read goes to ``store`` below ``output``. On a rank beside rank 0 what is written to ``store`` is
    dropped at the end; ``shared`` is the store that all ranks write to.
    """

    spec: S
    store: ObjectStore
    output: str
    folder: Path
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("infra.jobs"))
    channel: Channel = field(default_factory=ConsoleChannel)
    shown: dict[str, list[str]] = field(default_factory=dict, init=False)
    _progress: tuple[str, float] = field(default=("", 0.0), init=False, repr=False)

    @property
    def ephemeral(self) -> bool:
        """Whether ``folder`` goes with the process, as a pod's does: what is to last has to be in the store."""
        return EPHEMERAL_VARIABLE in os.environ

    @property
    def shared(self) -> ObjectStore:
        return self.store.below if isinstance(self.store, OverlayStore) else self.store

    def progress(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Says how far ``stage`` is. Call it as often as you like: only a few a second are passed on, the
        last always.
        """
        now = time.monotonic()
        last_stage, last = self._progress
        if done < total and stage == last_stage and now - last < PROGRESS_INTERVAL_S:
            return
        self._progress = (stage, now)
        self.channel.send(
            {"kind": "progress", "stage": stage, "done": float(done), "total": float(total), "unit": unit}
        )

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Reports numbers at a step; they are drawn as curves while the job runs."""
        numbers = {name: float(value) for name, value in values.items()}
        self.channel.send({"kind": "metrics", "values": numbers, "step": int(step)})

    def picture(self, name: str, png: bytes, step: int | None = None, shows: Iterable[str] = ()) -> str:
        """Shows a PNG while the job runs; the key it is stored under. ``shows``: see :meth:`note_shown`."""
        suffix = "" if step is None else f"-{step:08d}"
        key = self.put_png(f"pictures/{safe_key(name)}{suffix}", png, shows)
        seen = {"shows": self.shown[key]} if key in self.shown else {}
        self.channel.send({"kind": "picture", "name": name, "key": key, "step": step, **seen})
        return key

    def put_json(self, name: str, obj: Any) -> str:
        """Stores ``obj`` as ``<output>/<name>.json``; its key."""
        key = f"{self.output}/{name.removesuffix('.json')}.json"
        self.store.put(key, canonical_json(obj))
        return key

    def put_png(self, name: str, png: bytes, shows: Iterable[str] = ()) -> str:
        """Stores a PNG as ``<output>/<name>.png``; its key. ``shows``: see :meth:`note_shown`."""
        key = f"{self.output}/{name.removesuffix('.png')}.png"
        self.note_shown(key, shows)
        self.store.put(key, png)
        return key

    def note_shown(self, key: str, image_ids: Iterable[str]) -> None:
        """Says which delivered images can be seen in the object ``key``, so that a takedown finds it.

        Such a picture stays an object: it is never copied into Dagster's events or MLflow, which cannot forget.
        """
        seen = sorted({*self.shown.get(key, ()), *image_ids})
        if seen:
            self.shown[key] = seen


def main(room: str, verbs: Mapping[str, Verb], argv: list[str] | None = None) -> int:
    """Runs the verb named on the command line and returns the exit code.

    0 done and reported · 42 wrong configuration or data, do not retry · 75 a service was away · 143 ended by
    SIGTERM after saving · 1 anything else.
    """
    arguments = _parser(room, verbs).parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _preempt)
    try:
        folder = arguments.folder or _folder_by_hand(room, arguments.verb, arguments.spec)
    except BackdropError as error:
        print(f"{room} {arguments.verb}: {error}", file=sys.stderr)
        return error.exit_code
    run = _Run(room, arguments.verb, verbs[arguments.verb], arguments.spec, folder)
    return run.exit_code() if place().rank == 0 else run.follow()


Outcome = tuple[int, BackdropError | None]


class _Run:
    """One verb on one spec, from its lock to its exit."""

    def __init__(self, room: str, name: str, verb: Verb, spec_uri: str, folder: Path) -> None:
        self._room = room
        self._title = f"{room} {name}"
        self._verb = verb
        self._spec_uri = spec_uri
        self._folder = JobFolder(folder.absolute())
        self._log = logging.getLogger(f"{room}.{name}")
        self._channel: Channel = ConsoleChannel()

    def exit_code(self) -> int:
        """Runs; whatever happens becomes an exit code and one message on stderr, on the channel and in
        exit.json.
        """
        refused: BackdropError | None = None
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._folder.lock())
            except BackdropError as held:
                refused = held
            outcome = self._attempt(refused)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            code, error = self._last_words(outcome)
            if refused is None:  # otherwise the folder, and so exit.json, is another job's
                self._write_exit(code, error)
        return code

    def _attempt(self, refused: BackdropError | None) -> Outcome:
        from infra.jobs.messages import open_channel

        try:
            self._channel = open_channel()
            logging.getLogger().addHandler(_ChannelHandler(self._channel, self._room))
            if refused is not None:
                raise refused
            with self._folder.private_tmp():
                self._work()
            return 0, None
        except BaseException as error:
            return self._explain(error)

    def _work(self) -> None:
        spec = self._read_spec()
        store = open_store(spec.store)
        result_key = f"{spec.output}/result.json"
        # An earlier run's result must not be taken for this one's while its parts are being replaced.
        store.delete(result_key)
        self._folder.save.mkdir(parents=True, exist_ok=True)
        job = JobContext(spec, store, spec.output, self._folder.save, self._log, self._channel)
        run = _load(self._verb.run)  # what it imports is shared with the ranks that are forked
        with forked(spec.processes, self.follow, self._abandon):
            result = run(spec, job)
        if not isinstance(result, JobResult):
            raise TypeError(f"{self._verb.run} returned {type(result).__name__}, not a JobResult")
        result = result.model_copy(update={"shows": {**job.shown, **result.shows}})
        data = result.model_dump_json().encode()
        store.put(result_key, data)
        self._channel.send({"kind": "result", "key": result_key, "sha256": sha256_bytes(data)})

    def _read_spec(self) -> JobSpec:
        spec: JobSpec = parse_spec(_load(self._verb.spec), read_uri(self._spec_uri), self._spec_uri)
        count = int(os.environ.get(SLICES_VARIABLE, "0"))
        return spec.sliced(int(os.environ[SLICE_VARIABLE]), count) if count else spec

    def _abandon(self, error: BackdropError) -> NoReturn:
        """Ends the job beside its main thread, which waits for a rank that is dead."""
        try:
            self._last_words((error.exit_code, error))
            self._write_exit(error.exit_code, error)
        finally:
            os._exit(error.exit_code)

    def follow(self) -> int:
        """Runs as a rank beside rank 0: silent, without a lock, and what it writes to the store is not kept."""
        logging.getLogger().setLevel(logging.WARNING)  # rank 0 says the rest
        try:
            spec = self._read_spec()
            self._folder.save.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as aside:
                store = OverlayStore(open_store(spec.store), Path(aside))
                job = JobContext(spec, store, spec.output, self._folder.save, self._log, SilentChannel())
                _load(self._verb.run)(spec, job)
            return 0
        except BaseException as error:
            code, said = self._explain(error)
            if said is not None:
                self._print(BackdropError(f"rank {place().rank}: {said.what}", said.remedy))
            return code

    def _explain(self, error: BaseException) -> Outcome:
        """The exit code of an error, and the one message for people."""
        if isinstance(error, BackdropError):
            return error.exit_code, error
        if isinstance(error, Preempted):
            return 128 + signal.SIGTERM, BackdropError("ended by SIGTERM", "start it again: it resumes its save")
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT, BackdropError("interrupted", "start it again: it resumes its save")
        self._log.error("%s", "".join(traceback.format_exception(error)))
        # What libraries raise on a full disk is often not an OSError (torch.save: a RuntimeError).
        full = _where_disk_is_full(error) or (self._folder.path if self._folder.is_full() else None)
        if full is not None:
            return BackdropError.exit_code, BackdropError(
                f"disk full: nothing more can be written to {full}",
                "free some space there, or point BACKDROP_STATE / BACKDROP_STORE at a larger disk",
            )
        return 1, BackdropError(f"{type(error).__name__}: {error}", "the traceback is in the job's log")

    def _last_words(self, outcome: Outcome) -> Outcome:
        """Says how it ended and closes the channel. A result that could not be reported is not a success."""
        code, error = outcome
        try:
            if error is not None:
                self._print(error)
                said = {"kind": "error", "code": code, "what": error.what, "remedy": error.remedy}
                self._channel.send(said)
            self._channel.close()
        except BackdropError as failure:
            self._print(failure)
            if code == 0:
                return failure.exit_code, failure
        return outcome

    def _write_exit(self, code: int, error: BackdropError | None) -> None:
        """After the channel is closed: who finds exit.json knows that no more messages will come."""
        launch = os.environ.get(LAUNCH_VARIABLE, "")
        what, remedy = (error.what, error.remedy) if error is not None else ("", "")
        try:
            self._folder.write_exit(Exit(launch=launch, code=code, what=what, remedy=remedy))
        except BackdropError as failure:
            self._print(failure)

    def _print(self, error: BackdropError) -> None:
        print(f"{self._title}: {error}", file=sys.stderr, flush=True)


class _ChannelHandler(logging.Handler):
    """Passes our own log lines on to the launcher, and of everybody else's those that warn."""

    def __init__(self, channel: Channel, room: str) -> None:
        super().__init__(logging.INFO)
        self._channel = channel
        self._rooms = {*ROOMS, room}

    def emit(self, record: logging.LogRecord) -> None:
        # The channel's own complaints cannot travel on it.
        ours = record.name.partition(".")[0] in self._rooms and not record.name.startswith("infra.jobs.messages")
        if ours or record.levelno >= logging.WARNING:
            try:
                self._channel.log(record.levelname.lower(), record.getMessage())
            except Exception:
                self.handleError(record)


def _parser(room: str, verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {room}", description=f"The jobs of {room}.")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, verb in verbs.items():
        command = commands.add_parser(name, help=verb.help, description=verb.help)
        command.add_argument("--spec", required=True, metavar="URI", help="the spec: a path, file:// or s3:// URI")
        command.add_argument(
            "--folder",
            type=Path,
            help="the local folder for its lock, log and checkpoints (default: by the spec)",
        )
    return parser


def _folder_by_hand(room: str, verb: str, spec_uri: str) -> Path:
    """A job run by hand has a folder for each spec, so that it never resumes the checkpoint of another."""
    from infra.settings import Settings

    digest = sha256_bytes(read_uri(spec_uri))[:12]
    return job_folder(Settings.load().state, f"by-hand-{room}-{verb}-{digest}").path


def _preempt(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the save must not be interrupted in turn
    raise Preempted


def _load(name: str) -> Any:
    """The object behind "module:name"."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _where_disk_is_full(error: BaseException | None) -> Path | str | None:
    """The file at which an error, or one that it came from, found its disk full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error.filename or "the temporary folder"
        error = error.__cause__ or error.__context__
    return None
