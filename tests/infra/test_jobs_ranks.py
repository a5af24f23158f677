"""A job in several processes: rank 0 speaks and writes, the others end with it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

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
