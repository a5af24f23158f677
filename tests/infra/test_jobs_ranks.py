"""A job in several processes: rank 0 speaks and writes, the others end with it."""

from __future__ import annotations

import json
import os
import queue
import signal
import time
from pathlib import Path

import psutil
import pytest

from infra.errors import BackdropError, ServiceError
from infra.jobs import ranks
from infra.jobs.program import JobContext
from infra.jobs.ranks import forked, place
from infra.jobs.spec import JobSpec
from infra.object_store import DirectoryStore, ObjectMissing
from infra.overlay import OverlayStore
from tests.infra.test_jobs_program import job


def pids_in(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        found = [path.read_text() for path in sorted(folder.glob("save/rank-*"))]
        if len(found) == count and all(found):
            return [int(pid) for pid in found]
        time.sleep(0.02)
    raise AssertionError(f"not {count} ranks in {folder}")


@pytest.mark.integration
def test_rank_0_reports_and_what_the_others_write_stays_with_them(tmp_path: Path) -> None:
    process = job(tmp_path, {"ranks": 3}, "--folder", str(tmp_path / "folder"), verb="team")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    store = DirectoryStore(tmp_path / "store")
    assert store.get("made/counted/written") == b"0"
    data = json.loads(store.get("made/counted/result.json"))["data"]
    assert (data["rank"], data["ranks"], data["own"]) == (0, 3, "0")
    assert data["pids"][0] == process.pid
    assert len(set(data["pids"])) == 3
    assert "rank 0 of 3" in errors
    assert "rank 1 of 3" not in errors
    assert not any(psutil.pid_exists(pid) for pid in data["pids"])


@pytest.mark.integration
def test_the_others_end_when_rank_0_is_killed(tmp_path: Path) -> None:
    process = job(tmp_path, {"ranks": 2, "pause_s": 600}, "--folder", str(tmp_path / "folder"), verb="team")
    own, other = pids_in(tmp_path / "folder", 2)
    assert own == process.pid
    os.kill(own, signal.SIGKILL)
    process.communicate()  # its pipes are closed once the other has ended too
    deadline = time.monotonic() + 10
    while psutil.pid_exists(other) and psutil.Process(other).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.02)


@pytest.mark.integration
def test_a_rank_that_dies_is_named(tmp_path: Path) -> None:
    process = job(tmp_path, {"ranks": 2, "dies": 1}, "--folder", str(tmp_path / "folder"), verb="team")
    _, errors = process.communicate()
    assert process.returncode == 75
    assert "rank 1 of 2 ended with code -9" in errors
    assert "RuntimeError: Connection closed by peer" in errors  # rank 0's own traceback


@pytest.mark.integration
def test_ranks_may_be_started_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []
    for rank in range(2):  # as torchrun does
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        processes.append(job(tmp_path, {"ranks": 2}, "--folder", str(tmp_path / "folder"), verb="team"))
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    data = json.loads(DirectoryStore(tmp_path / "store").get("made/counted/result.json"))["data"]
    assert data["pids"] == [process.pid for process in processes]


def killed() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_killed_rank_is_the_reason_even_of_an_error_that_explains_itself() -> None:
    with pytest.raises(ServiceError, match="rank 1 of 2 ended with code -9"), forked(2, killed):
        raise BackdropError("cannot write the checkpoint")


def test_an_error_that_all_ranks_explain_stays_as_it_is() -> None:
    with pytest.raises(BackdropError, match="loss became nan"), forked(3, lambda: BackdropError.exit_code):
        raise BackdropError("loss became nan")


def test_the_dead_rank_is_told_where_rank_0_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "NOTICE_PATIENCE_S", 0.05)
    said: queue.SimpleQueue[BackdropError] = queue.SimpleQueue()
    with forked(2, killed, said.put):
        error = said.get(timeout=10)
    assert "rank 1 of 2 ended with code -9" in str(error)
    assert error.exit_code == ServiceError.exit_code


def test_the_environment_tells_the_place_only_meanwhile() -> None:
    before = dict(os.environ)
    with forked(2, lambda: 0):
        assert place().ranks == 2
        os.environ["SET_INSIDE"] = "stays"
    assert os.environ.pop("SET_INSIDE") == "stays"
    assert dict(os.environ) == before


class Below(DirectoryStore):
    """Counts questions, each of which is a request to a bucket."""

    asked = 0

    def exists(self, key: str) -> bool:
        self.asked += 1
        return super().exists(key)


def test_a_listing_asks_nothing_about_what_it_lists(tmp_path: Path) -> None:
    below = Below(tmp_path / "below")
    for key in ("a/1", "a/2", "a/3"):
        below.put(key, b"")
    store = OverlayStore(below, tmp_path / "aside")
    store.delete("a/2")
    assert list(store.list("a/")) == ["a/1", "a/3"]
    assert below.asked == 0


def test_every_rank_reaches_the_store_that_all_share(tmp_path: Path) -> None:
    below = DirectoryStore(tmp_path / "below")
    spec = JobSpec(store=below.uri, output="out")
    assert JobContext(spec, below, "out", tmp_path).shared is below
    assert JobContext(spec, OverlayStore(below, tmp_path / "aside"), "out", tmp_path).shared is below


def test_an_overlay_is_read_through_and_written_aside(tmp_path: Path) -> None:
    below = DirectoryStore(tmp_path / "below")
    for key in ("a/1", "a/2", "b"):
        below.put(key, b"old")
    store = OverlayStore(below, tmp_path / "aside")
    store.put("a/2", b"new")
    store.put("a/3", b"new")
    store.delete("a/1")
    assert list(store.list("a/")) == ["a/2", "a/3"]
    assert (store.get("a/2"), store.get("b"), store.size("a/3")) == (b"new", b"old", 3)
    assert not store.exists("a/1")
    removed = store.local_path("a/1")
    assert removed is not None
    assert not removed.exists()
    with pytest.raises(ObjectMissing):
        store.get("a/1")
    store.fetch("a/3", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"new"
    assert store.local_path("b") == below.local_path("b")
    store.put("a/1", b"again")
    assert store.get("a/1") == b"again"
    store.delete_prefix("a/")
    assert list(store.list("")) == ["b"]
    assert list(below.list("")) == ["a/1", "a/2", "b"]
    assert below.get("a/2") == b"old"
