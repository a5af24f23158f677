"""`backdrop jobs`: listed, shown, read and cancelled, on this machine and on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import BackdropError
from infra.jobs.folder import job_folder
from infra.jobs.handle import write_handle
from infra.jobs.process import LAUNCH_VARIABLE, ProcessId
from orchestration.commands import reference
from orchestration.job_list import Here, _news, every_job, find_job
from tests.orchestration.shop import Shop, handle_of


def test_a_log_is_followed_where_its_beginning_is_out_of_sight() -> None:
    assert _news(b"abc", b"abcdef") == b"def"
    long = bytes(range(97, 123)) * 200
    assert _news(long, long[500:] + b"new") == b"new"
    assert _news(b"one log\n", b"another") == b"another"


@pytest.fixture
def runs(shop: Shop) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is a job, by its handle and its environment: it prints, and saves when it is told to end."""
    program = (
        "import signal,sys,time\n"
        "def save(*_):\n print('saved', flush=True); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "for n in range(600):\n print('line', n, flush=True); time.sleep(0.2)\n"
    )
    folder = job_folder(shop.state, "autoencoder-2")
    folder.path.mkdir(parents=True)
    with folder.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=log, env={**os.environ, LAUNCH_VARIABLE: "launch-of-autoencoder-2"}
        )
    known = ProcessId.of(psutil.Process(process.pid))
    write_handle(folder, handle_of("autoencoder-2", "2026-01-03T00:00:00+00:00", process=known))
    yield process
    process.kill()
    process.wait()


@pytest.mark.integration
def test_a_job_is_listed_read_and_cancelled(shop: Shop, runs: subprocess.Popen[bytes]) -> None:
    shop.job("autoencoder-1", 0)
    shop.job("latent_shards-1", 42, created_at="2026-01-02T00:00:00+00:00")
    shop.job("pretrained_dit-1", None)
    found = shop.ask("jobs", "list")
    assert set(found) == set(reference.KEYS["backdrop jobs list"])
    states = [(one["key"], one["state"], one["code"]) for one in found["jobs"]]
    assert states == [
        ("autoencoder-2", "running", None),
        ("latent_shards-1", "failed", 42),
        ("pretrained_dit-1", "killed", None),
        ("autoencoder-1", "succeeded", 0),
    ]
    assert [one["key"] for one in shop.ask("jobs", "list", "--running")["jobs"]] == ["autoencoder-2"]
    assert [one["key"] for one in shop.ask("status")["jobs"]] == ["autoencoder-2"]
    shown = shop.ask("jobs", "show", "latent")
    assert (shown["said"], shown["log_end"]) == ("it was wrong", [])
    assert set(shown) == {*found["jobs"][0], "log_end"}
    assert "begin with 'auto'" in shop.ask("jobs", "show", "auto", code=42)["error"]
    told = shop.ask("jobs", "log", "autoencoder-2", "-n", "2")
    assert set(told) == set(reference.KEYS["backdrop jobs log"])
    assert len(told["lines"]) == 2

    # Followed until Ctrl-C, which ends the reader and not the job.
    with shop.start("jobs", "log", "autoencoder-2", "-f") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("line")
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=30)
    assert (follower.returncode, len(said.splitlines())) == (130, 1), said
    assert runs.poll() is None

    # Followed while it is cancelled: to its last word.
    with shop.start("jobs", "log", "autoencoder-2", "-f") as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        ended = shop.start("jobs", "cancel", "autoencoder-2", "--json")
        runs.wait(60)
        document = json.loads(ended.communicate(timeout=60)[0])
        assert document == {"key": "autoencoder-2", "was": "running", "state": "cancelled"}
        assert follower.communicate(timeout=60)[0].splitlines()[-1] == "saved"
    assert "it is killed" in shop.ask("jobs", "cancel", "autoencoder-2", code=42)["error"]


def test_a_handle_that_is_damaged_hides_no_other(shop: Shop) -> None:
    shop.job("autoencoder-1", 0)
    shop.job("autoencoder-3", 0)
    job_folder(shop.state, "autoencoder-3").handle.write_text("{")
    where = [Here(shop.state)]
    assert {row.key: row.state for _, row in every_job(where)} == {
        "autoencoder-1": "succeeded", "autoencoder-3": "unreadable",
    }  # fmt: skip
    with pytest.raises(BackdropError, match="Did you mean 'autoencoder-1'"):
        find_job(where, "autoencoder_1")


@pytest.mark.integration
def test_jobs_of_a_cluster_are_in_the_same_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.jobs.kubernetes.api import Api
    from infra.jobs.kubernetes.build import Launch, build_job
    from infra.jobs.kubernetes.handle import ClusterHandle, write_handle
    from infra.jobs.kubernetes.settings import ClusterSettings
    from infra.object_store import DirectoryStore
    from orchestration.job_list import Cluster, log_lines
    from tests.cluster.server import Node, TestCluster

    store = DirectoryStore(tmp_path / "store")
    handle = ClusterHandle(key="pretrained_dit-1", identity="abcdef", attempt=1, asset="pretrained_dit", run_id="r",
                           created_at="2026-01-01T00:00:00+00:00")  # fmt: skip
    write_handle(store, handle)
    store.put(f"{handle.logs}/00000/1.txt", b"first\n")
    store.put(f"{handle.logs}/00000/2.txt", b"second\nthird\n")
    settings = ClusterSettings.model_validate({"image": "registry.example/jobs:1", "service_account": "default"})
    launch = Launch(key=handle.key, launch=handle.launch, asset=handle.asset, partition="", run_id="r",
                    arguments=("training", "pretrain"), resources=settings.resources(handle.asset))  # fmt: skip
    with TestCluster(nodes=[Node("node-a", gpus=8)], command=lambda pod: time.sleep(60) or 0) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "kubeconfig")))
        api = Api(settings.namespace)
        api.create_job(build_job(launch, settings))
        where = [Here(tmp_path), Cluster(api, store)]
        place, row = find_job(where, "pretrained")
        assert (row.where, row.process, row.what) == ("cluster", handle.job_name, "pretrained_dit")
        assert row.state in ("starting", "running")
        assert list(log_lines(where, "pretrained", 5, 0, follow=False)) == ["second", "third"]
        place.cancel(row)
        deadline = time.monotonic() + 20
        while api.jobs() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert every_job(where) == []
