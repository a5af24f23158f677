"""`backdrop` as programs and people meet it: real processes, their exit codes, and the one document of --json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BackdropError, ServiceError
from infra.jobs.folder import Exit, job_folder
from infra.jobs.handle import Handle, write_handle
from infra.jobs.process import LAUNCH_VARIABLE, ProcessId
from infra.settings import REPOSITORY, Settings
from orchestration.commands import options, reference
from orchestration.ending import reason_of
from orchestration.job_list import Here, _news, every_job, find_job
from orchestration.screen import plain
from orchestration.status import problems

ENGINE = "backdrop-engine"


@dataclass(frozen=True)
class Shop:
    """A state folder, and the commands on it."""

    state: Path

    def environment(self, **extra: str) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("BACKDROP_", "DAGSTER_"))}
        return {**mine, "BACKDROP_STATE": str(self.state), "COLUMNS": "200", **extra}

    def run(self, *arguments: str | bytes, shell: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """`shell`: what follows the command in a shell, such as a redirection."""
        command: list[Any] = [sys.executable, "-m", "orchestration.cli", *arguments]
        if shell:
            command = ["bash", "-o", "pipefail", "-c", f'"$@" {shell}', "bash", *command]
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.environment(**extra), capture_output=True, text=True, timeout=120
        )

    def ask(self, *arguments: str, code: int = 0, **extra: str) -> Any:
        """The document of a command."""
        done = self.run(*arguments, "--json", **extra)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "state")


# ── pure ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_asset_is_stale_where_an_input_is_another() -> None:
    from orchestration.status_gathered import Made, reasons

    upstream = {"b": ["a"], "c": ["b"]}
    made = {"a": Made(1, "a1"), "b": Made(2, "b1", {"a": "a1"}), "c": Made(3, "c1", {"b": "b1"})}
    assert reasons("b", made, upstream, {}) == []
    again = {**made, "a": Made(4, "a2")}
    assert reasons("b", again, upstream, {}) == ["a is another since"]
    assert reasons("c", again, upstream, {"b": ["a is another since"]}) == ["b is stale"]
    assert reasons("c", {**made, "c": Made(3, "c1")}, upstream, {}) == [], (
        "an input that nobody wrote down says nothing"
    )


def test_what_is_not_well_is_said() -> None:
    service = {"name": "MLflow", "up": True, "said": ""}
    document: dict[str, Any] = {"services": [service], "problem": "", "run": None, "assets": None,
                                "champion": None, "budget": None}  # fmt: skip
    assert problems(document) == []
    ill = {
        "services": [{**service, "up": False}],
        "problem": "the database is away",
        "run": {"job": "retrain", "id": "12345678-9", "state": "failure"},
        "assets": [{"asset": "promotion", "checks_failed": ["gate"], "checks_warned": ["other"]}],
        "champion": {"tainted": ["takedown 3: licence"]},
        "budget": {"paused": "paused by the budget"},
    }
    said = problems(ill)
    assert len(said) == 6
    assert not [one for one in said if "other" in one], "a warning is none"


def test_documents_are_json_whatever_is_in_them() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    value = {
        "at": at,
        "bad": float("nan"),
        "path": Path("/x"),
        "many": (1, {"a"}),
        "one": ProcessId(pid=1, started=2.0),
    }
    assert json.loads(json.dumps(plain(value)))["at"] == "2026-01-02T03:04:05+00:00"
    assert plain(value)["bad"] is None


def test_every_end_has_its_code() -> None:
    class OperationalError(Exception):
        pass

    for error, code in (
        (BackdropError("x"), 42),
        (ServiceError("x"), 75),
        (PermissionError("x"), 42),
        (ConnectionRefusedError("x"), 75),
        (OperationalError("x"), 75),
        (KeyboardInterrupt(), 130),
    ):
        assert reason_of(error)[2] == code, error


def test_a_log_is_followed_where_its_beginning_is_out_of_sight() -> None:
    assert _news(b"abc", b"abcdef") == b"def"
    long = bytes(range(97, 123)) * 200
    assert _news(long, long[500:] + b"new") == b"new"
    assert _news(b"one log\n", b"another") == b"another"


def test_a_shell_completes_what_there_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.presets("") == ["base", "nano", "small", "tiny"]
    assert options.actions("r") == ["reject", "rollback"]
    assert f"{ENGINE}@champion" in options.aliases("backdrop-e")
    end_of(shop, "autoencoder-1", 0)
    monkeypatch.setenv("BACKDROP_STATE", str(shop.state))
    assert options.job_keys("auto") == ["autoencoder-1"]
    done = shop.run(
        shell="", **{"_BACKDROP_COMPLETE": "complete_bash", "COMP_WORDS": "backdrop run --preset n", "COMP_CWORD": "3"}
    )
    assert done.stdout.split() == ["nano"]


def test_the_page_of_commands_is_what_they_are() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `python -m orchestration.commands.reference`"
    takes = {path for path, command in reference.leaves() if any(one.name == "as_json" for one in command.params)}
    assert takes == set(reference.KEYS) - {"backdrop trace --model"}


# ── processes without services ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["statuss"], 2, "No such command"),
        (["status", "--jsn"], 2, "--jsn"),
        (["history", "--limit", "0"], 2, "limit"),
        (["jobs", "log", "x", "--follow"], 2, "followed"),
        (["jobs", "show", "nothing"], 42, "there is no job 'nothing'"),
        (["jobs", "reap"], 42, "not on a cluster"),
        (["trace"], 42, "what is to be traced"),
        (["trace", "x", "--list", "y"], 42, "--list"),
        (["trace", "no such file"], 42, "neither an image id nor a file"),
        (["promote", "--model", "backdrop-engin"], 42, "Did you mean"),
        (["reject", "--reason", " "], 42, "has to say why"),
        (["personalise", "a b", "--images", "/nowhere", "--word", "mug"], 42, ""),
        (["run", "--preset", "huge"], 42, "huge"),
        (["migrate"], 42, "no database"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_a_wrong_input_is_a_document_and_a_code(shop: Shop, arguments: list[str], code: int, said: str) -> None:
    found = shop.ask(*arguments, code=code)
    assert set(found) == {"error", "remedy", "exit_code"}
    assert found["exit_code"] == code
    assert said in found["error"]


@pytest.mark.integration
def test_a_terminal_may_be_anything(shop: Shop) -> None:
    for shell, code in (("", 0), ("| true", 0), (">&-", 0), (">/dev/full", 42), ("2>&- | cat", 0)):
        done = shop.run("status", shell=shell)
        assert done.returncode == code, shell
        assert "Traceback" not in done.stderr + done.stdout, shell
    full = shop.run("status", "--json", shell=">/dev/full")
    assert (full.returncode, "Traceback" in full.stderr) == (42, False)
    plain_c = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = shop.run("jobs", "show", "é →", **plain_c)
    assert (done.returncode, "Traceback" in done.stderr) == (42, False)
    assert shop.run("jobs", "show", b"\xff").returncode == 2
    narrow = shop.run("status", COLUMNS="40", NO_COLOR="1", FORCE_COLOR="")
    assert narrow.returncode == 0
    assert "\x1b" not in narrow.stdout


@pytest.mark.integration
def test_a_line_that_was_never_made(shop: Shop) -> None:
    found = shop.ask("status")
    assert set(found) == set(reference.KEYS["backdrop status"])
    assert (found["live"], found["assets"], found["jobs"]) == (False, None, [])
    assert "make ui" in found["start"]
    assert not shop.state.exists(), "a look leaves nothing behind"
    assert shop.run("status", "--check").returncode == 1
    assert set(shop.ask("doctor")) == set(reference.KEYS["backdrop doctor"])
    away = "postgresql://me:hunter2@127.0.0.1:9/things"
    ill = shop.ask("doctor", code=1, BACKDROP_CATALOG_URL=away)
    assert ill["failed"] == len([one for one in ill["findings"] if one["state"] == "failed"]) > 0
    given = shop.ask(
        "status", BACKDROP_CATALOG_URL=away, BACKDROP_DAGSTER_URL=away, BACKDROP_MLFLOW_URI="http://127.0.0.1:9"
    )
    assert [one["up"] for one in given["services"]] == [False, False, False]
    assert "hunter2" not in json.dumps(given)


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def handle_of(key: str, created_at: str = "2026-01-01T00:00:00+00:00", **given: Any) -> Handle:
    here = ProcessId.of_this_process()
    return Handle(key=key, room="training", verb="autoencoder", identity="i", launch=f"launch-of-{key}", attempt=2,
                  store="file:///x", prefix="p", created_at=created_at, run_id="r", watcher=here, **given)  # fmt: skip


def end_of(shop: Shop, key: str, code: int | None, process: ProcessId | None = None, **given: Any) -> None:
    folder = job_folder(shop.state, key)
    folder.path.mkdir(parents=True)
    ended = ProcessId(pid=2**22 - 1, started=1.0)
    write_handle(folder, handle_of(key, process=process or ended, **given))
    if code is not None:
        folder.write_exit(Exit(launch=f"launch-of-{key}", code=code, what="it was wrong" if code else ""))


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
    import psutil

    known = ProcessId.of(psutil.Process(process.pid))
    write_handle(folder, handle_of("autoencoder-2", "2026-01-03T00:00:00+00:00", process=known))
    yield process
    process.kill()
    process.wait()


@pytest.mark.integration
def test_a_job_is_listed_read_and_cancelled(shop: Shop, runs: subprocess.Popen[bytes]) -> None:
    end_of(shop, "autoencoder-1", 0)
    end_of(shop, "latent_shards-1", 42, created_at="2026-01-02T00:00:00+00:00")
    end_of(shop, "pretrained_dit-1", None)
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
    command = [sys.executable, "-m", "orchestration.cli", "jobs", "log", "autoencoder-2", "-f"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=shop.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("line")
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=30)
    assert (follower.returncode, len(said.splitlines())) == (130, 1), said
    assert runs.poll() is None

    # Followed while it is cancelled: to its last word.
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=shop.environment(), stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        follower.stdout.readline()
        ended = subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", "jobs", "cancel", "autoencoder-2", "--json"],
            cwd=REPOSITORY, env=shop.environment(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        runs.wait(60)
        document = json.loads(ended.communicate(timeout=60)[0])
        assert document == {"key": "autoencoder-2", "was": "running", "state": "cancelled"}
        assert follower.communicate(timeout=60)[0].splitlines()[-1] == "saved"
    assert "it is killed" in shop.ask("jobs", "cancel", "autoencoder-2", code=42)["error"]


def test_a_handle_that_is_damaged_hides_no_other(shop: Shop) -> None:
    end_of(shop, "autoencoder-1", 0)
    end_of(shop, "autoencoder-3", 0)
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


# ── processes with services ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A state folder whose services this process keeps up, with two versions of the engine."""
    from rich.console import Console

    from deploy.registry import Registry
    from infra.bundles import write_bundle
    from infra.database import remove_postgres
    from infra.object_store import open_store
    from infra.services import wait_for_mlflow
    from orchestration.services import services

    state = tmp_path_factory.mktemp("cli") / "state"
    settings = Settings(state=state)
    try:
        with services(settings, Console(quiet=True)) as environment:
            held = Settings.load(environment | {"BACKDROP_STATE": str(state)})
            wait_for_mlflow(held)
            store = open_store(held.store_uri)
            for number in (b"1", b"2"):
                bundle = write_bundle(store, "engines", "engine", {"trunk.onnx": number}, {})
                Registry(str(held.mlflow_uri)).register(ENGINE, bundle)
            yield Shop(state)
    finally:
        remove_postgres(state)


@pytest.mark.integration
def test_the_line_with_its_services(world: Shop) -> None:
    for version in ("1", "2"):
        done = world.ask("promote", version, "--reason", "looked")
        assert set(done) == set(reference.KEYS["backdrop promote"])
        assert (done["entry"]["to_version"], done["action"]) == (version, "promote")
    assert world.ask("rollback")["entry"]["to_version"] == "1"
    assert world.ask("reject", "2", "--reason", "twice")["entry"]["kind"] == "rejected"
    told = world.ask("history", "--limit", "2")
    assert set(told) == set(reference.KEYS["backdrop history"])
    assert ([one["kind"] for one in told["rows"]], told["aliases"]["champion"]) == (["rejected", "done"], "1")
    assert "no version 99" in world.ask("promote", "99", code=42)["error"]

    began = time.monotonic()
    found = world.ask("status")
    print(f"`backdrop status`, services up: {time.monotonic() - began:.2f} s with its imports")
    assert set(found) == set(reference.KEYS["backdrop status"])
    assert (found["live"], found["start"], found["problems"]) == (True, "", [])
    assert (found["champion"]["version"], found["champion"]["tainted"]) == ("1", [])
    assert found["champion"]["since"] is not None
    assert {one["state"] for one in found["assets"]} == {"missing"}
    assert len(found["assets"]) == 12
    assert world.run("status", "--check").returncode == 0
    traced = world.ask("trace", "--model", f"{ENGINE}@champion")
    assert set(traced) == set(reference.KEYS["backdrop trace --model"])
    assert "has not met" in world.ask("trace", "0" * 64, code=42)["error"]
    assert set(world.ask("plan")) == set(reference.KEYS["backdrop plan"])

    # Down, it is remembered: what was promoted since too.
    world.ask("approve", "2")
    world.ask("promote", "2", "--reason", "again")
    (world.state / "postgres.json").rename(world.state / "aside.json")
    try:
        down = world.ask("status")
    finally:
        (world.state / "aside.json").rename(world.state / "postgres.json")
    assert (down["live"], down["champion"]["version"]) == (False, "2")
    assert found["as_of"] <= down["as_of"] < down["at"]
    assert any("PostgreSQL" in one for one in down["problems"])


@pytest.mark.integration
def test_a_run_that_is_interrupted_says_so_in_one_line(shop: Shop) -> None:
    """While its first job runs: Dagster sees a failed step in that, and the command does not."""
    command = [sys.executable, "-m", "orchestration.cli", "run", "--preset", "tiny", "--json"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=shop.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            deadline = time.monotonic() + 120
            while not list(shop.state.glob("jobs/raw_images*/log.txt")) and time.monotonic() < deadline:
                time.sleep(0.1)
            running.send_signal(signal.SIGINT)
            out, said = running.communicate(timeout=90)
        finally:
            running.kill()
            from infra.database import remove_postgres

            remove_postgres(shop.state)
    assert (running.returncode, json.loads(out)["exit_code"]) == (130, 130), said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted: ")
