"""Tracking: a server that is away never stops a run, and nothing is recorded twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest

from infra.mlflow_runs import MlflowRuns, Point
from infra.tracking import Tracking


class FakeServer:
    """A RunServer in memory that can be away, be slow, or refuse."""

    def __init__(self) -> None:
        self.away = False
        self.lost_answers = 0
        self.runs: dict[str, list[Point]] = {}
        self.keys: dict[str, str] = {}
        self.ended: dict[str, str] = {}
        self.artifacts: dict[str, bytes] = {}
        self.requests = 0

    def connect(self, uri: str) -> FakeServer:
        return self

    def _answer(self) -> None:
        self.requests += 1
        if self.away:
            raise ConnectionError("connection refused")

    def open(self, experiment: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        self._answer()
        key = tags["backdrop.job_key"]
        if key in self.keys and self.ended.get(self.keys[key]) != "FINISHED":
            return self.keys[key], True
        self.keys[key] = f"run{len(self.runs)}"
        self.runs[self.keys[key]] = []
        return self.keys[key], False

    def open_again(self, experiment: str, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        self.ended.pop(self.keys.get(tags["backdrop.job_key"], ""), None)
        return self.open(experiment, name, tags)

    def describe_experiment(self, experiment: str, text: str) -> None:
        self._answer()

    def end_others(self, run_id: str, goes_on: Callable[[Mapping[str, str]], bool]) -> None:
        self._answer()

    def recorded_steps(self, run_id: str, metric: str) -> set[int]:
        self._answer()
        return {point.step for point in self.runs[run_id] if point.name == metric}

    def add_points(self, run_id: str, points: Sequence[Point]) -> None:
        self._answer()
        # As MLflow's database does: equal points are one.
        self.runs[run_id] += [point for point in points if point not in self.runs[run_id]]
        if self.lost_answers:
            self.lost_answers -= 1
            raise TimeoutError("no answer")

    def add_params(self, run_id: str, params: Mapping[str, str]) -> None:
        self._answer()
        error = ValueError("no such parameter")
        error.error_code = "INVALID_PARAMETER_VALUE"  # type: ignore[attr-defined]
        raise error

    def add_artifact(self, run_id: str, path: PurePosixPath, data: bytes) -> None:
        self._answer()
        self.artifacts[str(path)] = data

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._answer()

    def end(self, run_id: str, status: str) -> None:
        self._answer()
        self.ended[run_id] = status


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def tracking_of(server: FakeServer, patience_s: float = 5.0) -> Tracking:
    return Tracking("fake://", interval_s=0.01, patience_s=patience_s, connect=server.connect)


def log_steps(tracking: Tracking, run_id: str, steps: range) -> None:
    for step in steps:
        tracking.log_metrics(run_id, {"loss": 1 / (step + 1), "rate": 1.0}, step)


def test_points_go_out_in_batches_and_the_run_is_ended(server: FakeServer) -> None:
    tracking = tracking_of(server)
    run_id = tracking.start_run("line", "autoencoder", {"a": "b"}, "key")
    log_steps(tracking, run_id, range(600))
    tracking.log_picture(run_id, "pictures/loss", b"png")
    assert tracking.finish(run_id)
    assert len(server.runs[run_id]) == 1200
    assert server.requests < 100
    assert server.artifacts == {"pictures/loss.png": b"png"}
    assert server.ended == {run_id: "FINISHED"}


def test_a_replayed_job_leaves_no_double_points(server: FakeServer) -> None:
    first = tracking_of(server)
    run_id = first.start_run("line", "autoencoder", {}, "key")
    log_steps(first, run_id, range(10))
    first.finish(run_id, "FAILED")

    second = tracking_of(server)
    assert second.start_run("line", "autoencoder", {}, "key") == run_id
    log_steps(second, run_id, range(20))
    log_steps(second, run_id, range(20))
    assert second.finish(run_id)
    assert [point.step for point in server.runs[run_id] if point.name == "loss"] == list(range(20))


def test_a_finished_run_is_not_reopened(server: FakeServer) -> None:
    tracking = tracking_of(server)
    run_id = tracking.start_run("line", "autoencoder", {}, "key")
    tracking.finish(run_id)
    assert tracking.start_run("line", "autoencoder", {}, "key") != run_id


def test_a_lost_answer_does_not_double_points(server: FakeServer) -> None:
    tracking = tracking_of(server)
    run_id = tracking.start_run("line", "autoencoder", {}, "key")
    server.lost_answers = 2
    log_steps(tracking, run_id, range(5))
    assert tracking.finish(run_id)
    assert len(server.runs[run_id]) == 10


def test_a_server_that_is_away_is_named_once_and_gets_everything_later(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.away = True
    tracking = tracking_of(server, patience_s=0.1)
    with caplog.at_level(logging.WARNING):
        run_id = tracking.start_run("line", "autoencoder", {}, "key")
        log_steps(tracking, run_id, range(3))
        assert tracking.mlflow_run_id(run_id) is None
        assert not tracking.finish(run_id)
    assert sum("does not take what is logged" in message for message in caplog.messages) == 1
    assert "has not taken 6 entries" in caplog.messages[-1]
    server.away = False
    deadline = time.monotonic() + 10
    while not server.ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.ended == {"run0": "FINISHED"}
    assert tracking.mlflow_run_id(run_id) == "run0"
    assert len(server.runs["run0"]) == 6


def test_what_is_refused_does_not_hold_up_the_rest(server: FakeServer) -> None:
    tracking = tracking_of(server)
    run_id = tracking.start_run("line", "autoencoder", {}, "key")
    tracking.log_params(run_id, {"a": 1})
    log_steps(tracking, run_id, range(2))
    assert not tracking.finish(run_id)
    assert len(server.runs[run_id]) == 4
    assert server.ended[run_id] == "FINISHED"


def test_parts_are_ended_with_their_run(server: FakeServer) -> None:
    tracking = tracking_of(server)
    run_id = tracking.start_run("line", "finetune", {}, "key")
    parts = [tracking.start_part(run_id, name) for name in ("random", "product")]
    for part in parts:
        log_steps(tracking, part, range(3))
    assert tracking.finish(run_id)
    assert sorted(server.keys) == ["key", "key/product", "key/random"]
    assert set(server.ended.values()) == {"FINISHED"}
    assert [len(points) for points in server.runs.values()] == [0, 6, 6]


def test_parts_that_mlflow_has_not_heard_of_hold_nobody_up(server: FakeServer) -> None:
    server.away = True
    tracking = tracking_of(server, patience_s=0.1)
    run_id = tracking.start_run("line", "finetune", {}, "key")
    began = time.monotonic()
    part = tracking.start_part(run_id, "random")
    log_steps(tracking, part, range(3))
    assert time.monotonic() - began < 0.1
    assert not tracking.finish(run_id)
    server.away = False
    deadline = time.monotonic() + 10
    while len(server.ended) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.keys == {"key": "run0", "key/random": "run1"}
    assert len(server.runs["run1"]) == 6


@pytest.mark.integration
def test_runs_of_a_line_hang_together_in_a_real_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = Tracking(uri, interval_s=0.05)
    left = tracking.start_group("backdrop/line", "run 0", {"of": "dead"}, "line-0")
    kept = tracking.start_group("backdrop/line", "run 1", {"of": "alive"}, "line-1")
    whole = tracking.start_group("backdrop/line", "run 2", {"of": "this"}, "line-2")
    tracking.end_others(whole, lambda tags: tags["of"] == "alive")
    stages = []
    for stage in ("pretrained_dit", "inpainting_finetune"):
        assert tracking.start_group("backdrop/line", "run 2", {"of": "this"}, "line-2") == whole
        stages.append(tracking.start_run(f"backdrop/{stage}", stage, {}, stage, parent=whole))
        tracking.describe_experiment(stages[-1], f"# {stage}")
        if stage == "inpainting_finetune":
            tracking.log_metrics(tracking.start_part(stages[-1], "random-masks"), {"loss": 2.0}, 1)
        assert tracking.finish(stages[-1])
        assert tracking.finish(whole)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    assert [client.get_run(run).info.status for run in (left, kept, whole)] == ["KILLED", "RUNNING", "FINISHED"]
    assert [client.get_run(run).data.tags["mlflow.parentRunId"] for run in stages] == [whole, whole]
    experiment = client.get_experiment_by_name("backdrop/inpainting_finetune")
    assert experiment.tags["mlflow.note.content"] == "# inpainting_finetune"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    below = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{stages[1]}'")
    assert [(run.info.status, run.data.metrics) for run in below] == [("FINISHED", {"loss": 2.0})]


@pytest.mark.integration
def test_a_model_that_somebody_has_described_keeps_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    client.create_registered_model("backdrop-engine")
    for text in ("What serves.", "Other words."):
        MlflowRuns(uri).describe_model("backdrop-engine", text)
        assert client.get_registered_model("backdrop-engine").description == "What serves."


@pytest.mark.integration
def test_against_a_real_mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = Tracking(uri, interval_s=0.05)
    run_id = first.start_run("line", "autoencoder", {"dagster.run": "1"}, "it's")
    first.log_params(run_id, {"width": 64})
    first.log_metrics(run_id, {"loss (train)": 1.0, "bad": float("nan")}, 0)
    first.log_picture(run_id, "pictures/loss", b"png")
    assert first.finish(run_id, "KILLED")

    second = Tracking(uri, interval_s=0.05)
    assert second.start_run("line", "autoencoder", {"dagster.run": "2"}, "it's", parent="p") == run_id
    second.log_params(run_id, {"width": 65, "depth": 2})
    for step in range(3):
        second.log_metrics(run_id, {"loss (train)": 2.0}, step)
    assert second.finish(run_id)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"width": "64", "depth": "2"}
    assert run.data.tags["dagster.run"] == "2"
    assert run.data.tags["mlflow.parentRunId"] == "p"
    points = client.get_metric_history(run_id, "loss _train_")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 2.0), (2, 2.0)]
    assert [item.path for item in client.list_artifacts(run_id, "pictures")] == ["pictures/loss.png"]
