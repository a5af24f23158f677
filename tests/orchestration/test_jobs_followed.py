"""A log that is followed while what is asked does not answer, and a job that ends while somebody looks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import ServiceError
from infra.jobs.folder import Exit, job_folder
from infra.jobs.handle import Handle, write_handle
from infra.jobs.process import ProcessId
from orchestration import job_list
from orchestration.job_list import Here, JobRow, log_lines

ROW = JobRow("pretrained_dit-1", "cluster", "running", "pretrained_dit", 1, "2026-01-01T00:00:00+00:00", "r", "job-1",
             None, "", True, "")  # fmt: skip


class Shaky:
    """A place that answers as it is told: what it is asked after the first time."""

    poll_s = 0.01

    def __init__(self, answers: Sequence[JobRow | Exception | None]) -> None:
        self._answers = iter(answers)
        self.listed, self.printed = 0, b""

    def rows(self) -> list[JobRow]:
        self.listed += 1
        return [ROW] if self.listed == 1 else [row for row in [self.now(ROW)] if row]

    def now(self, row: JobRow) -> JobRow | None:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        self.printed += b"a line\n"
        return answer

    def read_log(self, row: JobRow, rank: int) -> bytes | None:
        return self.printed

    def cancel(self, row: JobRow) -> None:
        raise AssertionError("nobody asked for that")


AWAY, ENDED = ServiceError("the cluster does not answer"), replace(ROW, state="succeeded")


def test_a_log_is_followed_past_what_does_not_answer_for_a_moment() -> None:
    place = Shaky([ROW, AWAY, AWAY, ROW, AWAY, ENDED])
    assert list(log_lines([place], ROW.key, 5, 0, follow=True)) == ["a line"] * 3
    assert place.listed == 1, "what is followed is asked for by itself"


def test_a_log_that_cannot_be_followed_any_more_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_list, "PATIENCE_S", 0.1, raising=False)
    lines = log_lines([Shaky([ROW, *itertools.repeat(AWAY, 1000)])], ROW.key, 5, 0, follow=True)
    assert next(lines) == "a line"
    with pytest.raises(ServiceError, match="does not answer"):
        list(lines)


def test_a_job_that_is_deleted_while_it_is_followed_ends_its_log() -> None:
    assert list(log_lines([Shaky([ROW, None])], ROW.key, 5, 0, follow=True)) == ["a line"]


def test_a_job_that_ends_while_somebody_looks_was_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job_folder(tmp_path, "autoencoder-1")
    folder.path.mkdir(parents=True)
    gone = ProcessId(pid=2**22 - 1, started=1.0)
    handle = Handle(key="autoencoder-1", room="training", verb="autoencoder", identity="i", launch="one", attempt=1,
                    store="file:///x", prefix="p", created_at="2026-01-01T00:00:00+00:00", run_id="r", watcher=gone,
                    process=gone)  # fmt: skip
    write_handle(folder, handle)
    assert [row.state for row in Here(tmp_path).rows()] == ["killed"]

    def ends(self: Handle) -> None:
        folder.write_exit(Exit(launch=self.launch, code=0))

    monkeypatch.setattr(Handle, "find_process", ends)
    assert [(row.state, row.code) for row in Here(tmp_path).rows()] == [("succeeded", 0)]


@pytest.mark.integration
def test_a_cluster_is_asked_for_the_one_job_and_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.jobs.kubernetes.api import Api
    from infra.jobs.kubernetes.build import Launch, build_job
    from infra.jobs.kubernetes.handle import ClusterHandle, write_handle
    from infra.jobs.kubernetes.settings import ClusterSettings
    from infra.object_store import DirectoryStore
    from orchestration.job_list import Cluster, every_job
    from tests.cluster.proxy import Proxy
    from tests.cluster.server import Node, TestCluster

    assert 2 <= Cluster.poll_s <= 5
    monkeypatch.setattr(Cluster, "poll_s", 0.1)
    store, done = DirectoryStore(tmp_path / "store"), threading.Event()
    handle = ClusterHandle(key="pretrained_dit-1", identity="abcdef", attempt=1, asset="pretrained_dit", run_id="r",
                           created_at="2026-01-01T00:00:00+00:00")  # fmt: skip
    write_handle(store, handle)
    store.put(f"{handle.logs}/00000/1.txt", b"first\n")
    settings = ClusterSettings.model_validate({"image": "registry.example/jobs:1", "service_account": "default"})
    launch = Launch(key=handle.key, launch=handle.launch, asset=handle.asset, partition="", run_id="r",
                    arguments=("training", "pretrain"), resources=settings.resources(handle.asset))  # fmt: skip
    with (
        TestCluster(nodes=[Node("node-a", gpus=8)], command=lambda pod: 0 if done.wait(60) else 1) as running,
        Proxy(running.kubeconfig(tmp_path / "direct")) as proxy,
    ):
        api = Api(settings.namespace, proxy.kubeconfig(tmp_path / "kubeconfig"))
        api.create_job(build_job(launch, settings))
        place = Cluster(api, store)
        lines = log_lines([place], handle.key, 5, 0, follow=True)
        assert next(lines) == "first"
        before = len(proxy.requests)
        proxy.fail(3, 503)
        store.put(f"{handle.logs}/00000/1.txt", b"first\nsecond\n")
        assert next(lines) == "second"
        assert proxy.left == 0
        store.put(f"{handle.logs}/00000/1.txt", b"first\nsecond\nthird\n")
        done.set()
        assert list(lines) == ["third"]
        paths = [path.partition("?")[0] for _, _, path in proxy.requests[before:]]
        assert f"/apis/batch/v1/namespaces/{settings.namespace}/jobs/{handle.job_name}" in paths
        assert not [path for path in paths if path.endswith("/jobs")], "the others are not asked for"

        # Its next Job, which is not there yet, is waited for; one that was deleted is not.
        [(_, row)] = every_job([place])
        write_handle(store, handle.model_copy(update={"restart": 1}))
        assert place.now(row) == row
        write_handle(store, handle)
        place.cancel(row)
        while api.jobs():
            pass
        assert place.now(row) is None
        proxy.down()
        with pytest.raises(ServiceError, match="does not answer"):
            place.rows()
