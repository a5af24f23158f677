"""The few requests that tracking makes of an MLflow server. Each may raise; none is retried here."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

JOB_KEY_TAG = "backdrop.job_key"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
"""The description of an experiment or a run, which MLflow's page shows as Markdown."""
# MLflow's page opens an experiment of this kind with its runs and charts, and others with its traces of prompts.
_KIND = {"mlflow.experimentKind": "custom_model_development"}

_log = logging.getLogger(__name__)

# MLflow takes at most these many in one request, and values of at most these lengths.
POINTS_PER_REQUEST = 1000
_PARAMS_PER_REQUEST = 100
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
# The same request would be refused again.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}


class Point(NamedTuple):
    """One point of a curve; ``timestamp`` in milliseconds since 1970."""

    name: str
    value: float
    timestamp: int
    step: int


class RunServer(Protocol):
    """What tracking needs of a server; :class:`MlflowRuns` is the real one."""

    def open(self, experiment: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]: ...

    def open_again(self, experiment: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]: ...

    def describe_experiment(self, experiment: str, text: str) -> None: ...

    def end_others(self, run_id: str, goes_on: Callable[[Mapping[str, str]], bool]) -> None: ...

    def recorded_steps(self, run_id: str, metric: str) -> set[int]: ...

    def add_points(self, run_id: str, points: Sequence[Point]) -> None: ...

    def add_params(self, run_id: str, params: Mapping[str, str]) -> None: ...

    def add_artifact(self, run_id: str, path: PurePosixPath, data: bytes) -> None: ...

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None: ...

    def end(self, run_id: str, status: str) -> None: ...


class MlflowRuns:
    """A :class:`RunServer` over ``MlflowClient``. Making one imports mlflow, which takes seconds."""

    def __init__(self, uri: str) -> None:
        # mlflow's own defaults let one call take ten minutes to fail, and report its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)

    def open(self, experiment: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        """The id of the run with this job key that an interrupted attempt left, or of a new one; whether it
        was found.

        A finished run is history: it is not reopened.
        """
        return self._open(experiment, name, tags, finished=False)

    def open_again(self, experiment: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        """The same for a run that only holds others together: it goes on with each of them, finished or not."""
        return self._open(experiment, name, tags, finished=True)

    def _open(self, experiment: str, name: str, tags: Mapping[str, str], finished: bool) -> tuple[str, bool]:
        client, number = self._client, self._experiment(experiment)
        wanted = f"tags.`{JOB_KEY_TAG}` = '{tags[JOB_KEY_TAG]}'"
        runs = client.search_runs([number], wanted, max_results=1, order_by=["attributes.start_time DESC"])
        if runs and (finished or runs[0].info.status != "FINISHED"):
            run_id = runs[0].info.run_id
            client.update_run(run_id, status="RUNNING", name=name)
            self.set_tags(run_id, tags)
            return run_id, True
        cut = {tag: value[:_TAG_LENGTH] for tag, value in tags.items()}
        return client.create_run(number, tags=cut, run_name=name).info.run_id, False

    def _experiment(self, name: str) -> str:
        """The id of an experiment, which is made where it is missing."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name, tags=_KIND))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def describe_experiment(self, experiment: str, text: str) -> None:
        """Sets an experiment's description unless it is this one already."""
        number = self._experiment(experiment)
        for tag, value in {**_KIND, NOTE_TAG: text}.items():
            if self._client.get_experiment(number).tags.get(tag) != value:
                self._client.set_experiment_tag(number, tag, value)

    def describe_model(self, name: str, text: str) -> None:
        """Sets a registered model's description unless somebody has given it one."""
        if not self._client.get_registered_model(name).description:
            self._client.update_registered_model(name, text)

    def end_others(self, run_id: str, goes_on: Callable[[Mapping[str, str]], bool]) -> None:
        """Ends as KILLED the open runs beside `run_id`, in its experiment, whose tags are not of what goes on."""
        number = self._client.get_run(run_id).info.experiment_id
        for run in self._client.search_runs([number], "attributes.status = 'RUNNING'"):
            if run.info.run_id != run_id and not goes_on(run.data.tags):
                self.end(run.info.run_id, "KILLED")

    def end_left(self, key: str) -> list[str]:
        """Ends as KILLED the runs of a job that nobody works on any more; their ids."""
        numbers = [found.experiment_id for found in self._client.search_experiments()]
        wanted = f"tags.`{JOB_KEY_TAG}` = '{key.replace(chr(39), '_')}' and attributes.status = 'RUNNING'"
        left = [run.info.run_id for run in self._client.search_runs(numbers, wanted)] if numbers else []
        for run_id in left:
            self.end(run_id, "KILLED")
        return left

    def recorded_steps(self, run_id: str, metric: str) -> set[int]:
        """The steps at which the run has points of a metric."""
        return {point.step for point in self._client.get_metric_history(run_id, metric_name(metric))}

    def add_points(self, run_id: str, points: Sequence[Point]) -> None:
        """At most POINTS_PER_REQUEST points; equal ones sent twice are stored once."""
        from mlflow.entities import Metric

        metrics = [Metric(metric_name(p.name), p.value, p.timestamp, p.step) for p in points]
        self._client.log_batch(run_id, metrics=metrics, synchronous=True)

    def add_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Records what is new: MLflow never changes a parameter, so a reopened run keeps its older values."""
        from mlflow.entities import Param

        given = {metric_name(name): value[:_PARAM_LENGTH] for name, value in params.items()}
        recorded = self._client.get_run(run_id).data.params
        changed = [name for name, value in given.items() if recorded.get(name, value) != value]
        if changed:
            _log.warning("The reopened MLflow run %s keeps its older values of %s", run_id, ", ".join(changed))
        new = [Param(name, value) for name, value in given.items() if name not in recorded]
        for start in range(0, len(new), _PARAMS_PER_REQUEST):
            self._client.log_batch(run_id, params=new[start : start + _PARAMS_PER_REQUEST], synchronous=True)

    def add_artifact(self, run_id: str, path: PurePosixPath, data: bytes) -> None:
        """Stores bytes at ``path`` among the run's artifacts, replacing what is there."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / path.name
            file.write_bytes(data)
            parent = str(path.parent) if path.parent != PurePosixPath() else None
            self._client.log_artifact(run_id, str(file), parent)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags, replacing older values."""
        for name, value in tags.items():
            self._client.set_tag(run_id, name, value[:_TAG_LENGTH], synchronous=True)

    def end(self, run_id: str, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status)


def is_refusal(error: Exception) -> bool:
    """Whether MLflow has understood the request and will never grant it."""
    return getattr(error, "error_code", None) in _REFUSALS


def metric_name(name: str) -> str:
    """``name`` with what MLflow does not take in a name replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)
