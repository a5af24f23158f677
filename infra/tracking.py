"""MLflow runs owned by assets: opened, filled and closed from the orchestrator, while the job trains
elsewhere.

Nothing here may stop a training run. All talk with MLflow happens in one background thread that keeps trying;
what is logged waits in memory meanwhile, and :meth:`Tracking.finish` says what could not be delivered.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from infra.mlflow_runs import (
    JOB_KEY_TAG,
    PARENT_TAG,
    POINTS_PER_REQUEST,
    MlflowRuns,
    Point,
    RunServer,
    is_refusal,
)

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 15.0

Operation = Callable[[RunServer, str], None]


@dataclass
class _Run:
    """A run and what still has to be said about it. Filled by callers, emptied by the background thread.

    ``parent``: the run that it is a part of, and ``parts`` the other way round; ``together``: it only holds
    the runs of several jobs together. ``steps``: the steps known to be recorded, by metric; ``batch``: the
    points of the request under way, kept as they are until MLflow has answered, because it stores equal points
    once.
    """

    experiment: str
    name: str
    tags: Mapping[str, str]
    parent: _Run | None = None
    parts: list[_Run] = field(default_factory=list)
    together: bool = False
    run_id: str = ""
    found: bool = False
    points: deque[Point] = field(default_factory=deque)
    operations: deque[Operation] = field(default_factory=deque)
    status: str | None = None
    batch: list[Point] = field(default_factory=list)
    steps: dict[str, set[int]] = field(default_factory=dict)
    refused: int = 0
    opened: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def waiting(self) -> int:
        return len(self.points) + len(self.batch) + len(self.operations)


class Tracking:
    """The MLflow server at ``uri``. It is first spoken to, and mlflow imported, when a run is started.

    ``patience_s``: how long :meth:`start_run` and :meth:`finish` wait for a server that is slow or away.
    """

    def __init__(
        self,
        uri: str,
        *,
        interval_s: float = 1.0,
        patience_s: float = 60.0,
        connect: Callable[[str], RunServer] = MlflowRuns,
    ) -> None:
        self.uri = uri
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._connect = connect
        self._server: RunServer | None = None
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._away_since: float | None = None

    def start_run(
        self, experiment: str, name: str, tags: Mapping[str, str], key: str, parent: str | None = None
    ) -> str:
        """The id of the run for the job ``key``: the one that an interrupted attempt left open, or a new one.

        Tags are set anew each time; ``parent`` is the id of the run to show it under. While MLflow is away
        the id is a stand-in that the other methods understand; :meth:`mlflow_run_id` tells the real one once
        there is one.
        """
        above = self._run(parent) if parent is not None else None
        return self._started(_Run(experiment, name, _tagged(tags, key), parent=above))

    def start_group(self, experiment: str, name: str, tags: Mapping[str, str], key: str) -> str:
        """The id of a run that holds the runs of several jobs together; each of them opens it and finishes it again."""
        return self._started(_Run(experiment, name, _tagged(tags, key), together=True))

    def start_part(self, run_id: str, name: str) -> str:
        """A run below ``run_id`` for one of its parts, such as a pass of a training; it is ended with it.

        Waits for nothing: the id is a stand-in.
        """
        whole = self._run(run_id)
        key = f"{whole.tags.get(JOB_KEY_TAG, whole.name)}/{name}"
        part = _Run(whole.experiment, f"{whole.name} {name}", _tagged(whole.tags, key), parent=whole)
        stand_in = _stand_in()
        with self._lock:
            self._runs[stand_in] = part
        whole.parts.append(part)
        self._work_on()
        return stand_in

    def _started(self, run: _Run) -> str:
        stand_in = _stand_in()
        with self._lock:
            self._runs[stand_in] = run
        self._work_now()
        if not run.opened.wait(self._patience_s):
            _log.warning("MLflow at %s does not answer; the run %s is started when it does", self.uri, run.name)
            return stand_in
        with self._lock:
            self._runs[run.run_id] = self._runs.pop(stand_in)
        return run.run_id

    def mlflow_run_id(self, run_id: str) -> str | None:
        """The id in MLflow of a run started here; None while MLflow has been away since."""
        return self._run(run_id).run_id or None

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Adds points to curves. A point (name, step) that the run has already is left as it is."""
        now = int(time.time() * 1000)
        points = [Point(name, float(value), now, step) for name, value in values.items()]
        self._run(run_id).points.extend(points)
        self._work_on()

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Records parameters; of a reopened run those that it has keep their values."""
        texts = {name: str(value) for name, value in params.items()}
        self._add(run_id, lambda server, real: server.add_params(real, texts))

    def log_picture(self, run_id: str, path: str, png: bytes) -> None:
        """Stores a PNG among the run's artifacts, at ``path`` with or without ``.png``."""
        self.log_artifact_bytes(run_id, path if path.endswith(".png") else f"{path}.png", png)

    def log_artifact_bytes(self, run_id: str, path: str, data: bytes) -> None:
        """Stores bytes among the run's artifacts at ``path``, replacing what is there."""
        self._add(run_id, lambda server, real: server.add_artifact(real, PurePosixPath(path), data))

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        texts = {name: str(value) for name, value in tags.items()}
        self._add(run_id, lambda server, real: server.set_tags(real, texts))

    def describe_experiment(self, run_id: str, text: str) -> None:
        """Describes the experiment of a run started here, in Markdown."""
        experiment = self._run(run_id).experiment
        self._add(run_id, lambda server, real: server.describe_experiment(experiment, text))

    def end_others(self, run_id: str, goes_on: Callable[[Mapping[str, str]], bool]) -> None:
        """Ends the open runs beside this one, in its experiment, whose tags are not of something that goes on."""
        self._add(run_id, lambda server, real: server.end_others(real, goes_on))

    def finish(self, run_id: str, status: str = "FINISHED") -> bool:
        """Ends the run and its parts (FINISHED, FAILED or KILLED) when all is delivered; False and a warning where that
        fails.
        """
        run = self._run(run_id)
        for one in (*run.parts, run):
            one.finished.clear()
            one.status = status
        self._work_now()
        deadline = time.monotonic() + self._patience_s
        ended = [one.finished.wait(max(0.0, deadline - time.monotonic())) for one in (*run.parts, run)]
        if all(ended) and not any(one.refused for one in (*run.parts, run)):
            return True
        _log.warning(
            "Of the run %s, MLflow at %s has not taken %s entries and refused %s; the job is not affected",
            run.name,
            self.uri,
            run.waiting,
            run.refused,
        )
        return False

    def _run(self, run_id: str) -> _Run:
        with self._lock:
            if run_id not in self._runs:  # another process started it
                self._runs[run_id] = _Run("", run_id, {}, run_id=run_id, found=True)
            return self._runs[run_id]

    def _add(self, run_id: str, operation: Operation) -> None:
        self._run(run_id).operations.append(operation)
        self._work_on()

    def _work_on(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
                self._thread.start()

    def _work_now(self) -> None:
        self._work_on()
        self._wake.set()

    def _work(self) -> None:
        pause = self._interval_s
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            with self._lock:
                runs = list(self._runs.values())
            try:
                for run in runs:
                    self._advance(run)
            except Exception as error:
                pause = self._note_away(error)
            else:
                pause = self._interval_s
                if self._away_since is not None:
                    _log.info("MLflow at %s answers again", self.uri)
                self._away_since = None

    def _note_away(self, error: Exception) -> float:
        """Says so once; how long to wait before the next try: longer, the longer it has been."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            _log.warning("MLflow at %s does not take what is logged (%s); trying again", self.uri, error)
        return min(max(now - self._away_since, self._interval_s), _LONGEST_PAUSE_S)

    def _advance(self, run: _Run) -> None:
        """Delivers what waits for one run. Raises where MLflow does not answer; then everything still waits."""
        if run.finished.is_set() and not run.waiting:
            return
        if self._server is None:
            self._server = self._connect(self.uri)
        server = self._server
        if not run.run_id:
            tags = dict(run.tags)
            if run.parent is not None:
                if not run.parent.run_id:
                    return  # until that one is open
                tags[PARENT_TAG] = run.parent.run_id
            opened = server.open_again if run.together else server.open
            run.run_id, run.found = opened(run.experiment, run.name, tags)
        run.opened.set()
        while _fill_batch(server, run):
            _deliver(run, len(run.batch), lambda server, real: server.add_points(real, run.batch), server)
            run.batch = []
        while run.operations:
            _deliver(run, 1, run.operations[0], server)
            run.operations.popleft()
        status = run.status
        if status is not None and not run.waiting and not run.finished.is_set():
            _deliver(run, 1, lambda server, real: server.end(real, status), server)
            run.finished.set()


def _tagged(tags: Mapping[str, str], key: str) -> dict[str, str]:
    return {**{tag: str(value) for tag, value in tags.items()}, JOB_KEY_TAG: key.replace("'", "_")}


def _stand_in() -> str:
    return f"pending-{uuid.uuid4().hex}"


def _fill_batch(server: RunServer, run: _Run) -> bool:
    """Moves waiting points that the run does not have yet into its batch, unless one is under way; false when
    empty.
    """
    if run.batch:
        return True
    while run.points and len(run.batch) < POINTS_PER_REQUEST:
        point = run.points[0]
        if point.name not in run.steps:
            run.steps[point.name] = server.recorded_steps(run.run_id, point.name) if run.found else set()
        run.points.popleft()
        if point.step not in run.steps[point.name]:
            run.steps[point.name].add(point.step)
            run.batch.append(point)
    return bool(run.batch)


def _deliver(run: _Run, entries: int, operation: Operation, server: RunServer) -> None:
    """Sends; what is refused for good is counted and dropped, so that it does not hold up the rest."""
    try:
        operation(server, run.run_id)
    except Exception as error:
        if not is_refusal(error):
            raise
        run.refused += entries
        _log.warning("MLflow refused %s entries of the run %s: %s", entries, run.name, error)
