"""A job by hand: its command line, its spec, its folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from infra.errors import BackdropError
from infra.jobs.folder import JobFolder, safe_key
from infra.jobs.handle import Action, Handle, decide
from infra.jobs.process import ProcessId
from infra.jobs.program import JobContext
from infra.jobs.spec import JobSpec, parse_spec
from infra.object_store import DirectoryStore
from infra.settings import REPOSITORY

FIXTURE = Path(__file__).parent / "jobs_fixture"


class Section(BaseModel, extra="forbid"):
    learning_rate: float = 0.1


class TrainSpec(JobSpec):
    steps: int
    section: Section | None = None


def job(tmp_path: Path, spec: dict, *arguments: str, verb: str = "count") -> subprocess.Popen[str]:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"store": (tmp_path / "store").as_uri(), "output": "made/counted", **spec}))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{FIXTURE}",
        "BACKDROP_STATE": str(tmp_path / "state"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "fixture_room", verb, "--spec", str(path), *arguments],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 40
    while not path.exists() or not list(path.iterdir()):
        assert time.monotonic() < deadline, f"nothing in {path}"
        time.sleep(0.02)


@pytest.mark.integration
def test_a_job_by_hand_writes_its_result_last(tmp_path: Path) -> None:
    process = job(tmp_path, {"steps": 2})
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    store = DirectoryStore(tmp_path / "store")
    assert json.loads(store.get("made/counted/result.json"))["metadata"] == {"steps": 2}
    assert "counting: 2 of 2 steps" in errors


@pytest.mark.integration
def test_help_lists_the_verbs_and_a_bad_spec_is_one_message(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{FIXTURE}"}
    listed = subprocess.run(
        [sys.executable, "-m", "fixture_room", "--help"], env=environment, capture_output=True, text=True
    )
    assert listed.returncode == 0
    assert "Count steps, with a save." in listed.stdout

    process = job(tmp_path, {"stepps": 2})
    _, errors = process.communicate()
    assert process.returncode == 42
    assert "unknown key 'stepps'. Did you mean 'steps'?" in errors
    assert "Traceback" not in errors


@pytest.mark.integration
def test_sigterm_saves_and_a_second_job_on_the_folder_names_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    first = job(tmp_path, {"steps": 100, "pause_s": 0.1}, "--folder", str(folder))
    wait_for(tmp_path / "store" / "made" / "counted" / "starts")

    second = job(tmp_path, {"steps": 1}, "--folder", str(folder))
    _, errors = second.communicate()
    assert second.returncode == 42
    assert f"process {first.pid} is running a job in {folder}" in errors

    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 143, errors
    assert int((folder / "save" / "step.txt").read_text()) > 0
    assert not (folder / "tmp").exists()
    JobFolder(folder).check_free()


def test_a_spec_names_its_problems_and_the_nearest_key() -> None:
    text = json.dumps({"store": "s", "output": "o", "section": {"learning_rat": 1}})
    with pytest.raises(BackdropError) as wrong:
        parse_spec(TrainSpec, text, "specs/a.json")
    assert "specs/a.json" in wrong.value.what
    assert "'steps' is missing" in wrong.value.what
    assert "unknown key 'section.learning_rat'. Did you mean 'learning_rate'?" in wrong.value.what
    with pytest.raises(BackdropError, match=r"'steps'.*got 'many'"):
        parse_spec(TrainSpec, '{"store": "s", "output": "o", "steps": "many"}', "a")
    with pytest.raises(BackdropError, match="is not valid"):
        parse_spec(TrainSpec, "{", "a")


def test_the_context_passes_on_few_progress_messages_but_always_the_last(tmp_path: Path) -> None:
    sent: list[dict] = []

    class Channel:
        def send(self, payload: dict) -> None:
            sent.append(payload)

    spec = TrainSpec(store="s", output="made", steps=1)
    context = JobContext(spec, DirectoryStore(tmp_path), "made", tmp_path, channel=Channel())  # type: ignore[arg-type]
    for step in range(1, 1001):
        context.progress("a", step, 1000)
    assert sent[0]["done"] == 1
    assert sent[-1]["done"] == 1000
    assert len(sent) < 20
    assert context.picture("Loss curve", b"png", 3) == f"made/pictures/{safe_key('Loss curve')}-00000003.png"
    assert context.put_json("numbers", {"b": 1}) == "made/numbers.json"
    assert "shows" not in sent[-1]
    seen = context.picture("Grid", b"png", 3, shows=("b", "a"))
    assert sent[-1]["shows"] == context.shown[seen] == ["a", "b"]
    page = context.put_png("page", b"png", ["a"])
    context.note_shown(page, ["c"])
    assert context.shown == {seen: ["a", "b"], page: ["a", "c"]}


def test_keys_become_plain_and_stay_apart() -> None:
    assert safe_key("filtered_shards.2026-01-01") == "filtered_shards.2026-01-01"
    assert safe_key("a/b") != safe_key("a:b")
    assert "/" not in safe_key("sample://nano?seed=0")


def test_a_worker_that_outlives_its_job_does_not_hold_the_folder(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    reading, writing = os.pipe()
    job = os.fork()
    if job == 0:
        with folder.lock():
            worker = os.fork()
            if worker == 0:
                os.write(writing, f"{os.getpid()}\n".encode())
                time.sleep(60)
            time.sleep(60)
    worker = int(os.read(reading, 100))
    with pytest.raises(BackdropError, match=f"process {job} "):
        folder.check_free()
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    folder.check_free()
    os.kill(worker, signal.SIGKILL)


def test_a_long_folder_has_a_short_tmpdir(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / ("long" * 20))
    with folder.private_tmp() as tmp:
        short = os.environ["TMPDIR"]
        assert len(short) <= 60
        assert Path(short).samefile(tmp)
    assert not Path(short).is_symlink()
    assert not tmp.exists()


HANDLE = Handle(
    key="k",
    room="r",
    verb="v",
    identity="same",
    launch="l",
    attempt=1,
    store="s",
    prefix="p",
    created_at="",
    run_id="run",
    watcher=ProcessId(pid=1, started=0),
)


@pytest.mark.parametrize(
    ("identity", "running", "succeeded", "delivered", "action"),
    [
        ("same", True, False, False, Action.ADOPT),
        ("other", True, False, False, Action.REPLACE),
        ("same", False, True, False, Action.ADOPT),
        ("same", False, True, True, Action.START_FRESH),
        ("same", False, False, False, Action.START),
        ("other", False, True, False, Action.START_FRESH),
    ],
)
def test_what_a_launcher_does_about_what_it_finds(
    identity: str, running: bool, succeeded: bool, delivered: bool, action: Action
) -> None:
    assert decide(HANDLE.identity, identity, running, succeeded, delivered) == action
    assert decide(None, identity, False, False, False) == Action.START_FRESH


def test_a_process_is_known_by_more_than_its_pid() -> None:
    me = ProcessId.of_this_process()
    assert me.alive
    assert not ProcessId(pid=me.pid, started=me.started - 100).alive
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.DEVNULL)
    time.sleep(0.5)  # a zombie now: nobody has waited for it
    assert not ProcessId(pid=ended.pid, started=time.time()).alive
    ended.wait()
