"""`backdrop` as programs and people meet it: real processes, their exit codes, and the one document of --json."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BackdropError, ServiceError
from infra.jobs.process import ProcessId
from infra.s3 import S3Store
from infra.settings import Settings
from orchestration.cli import main
from orchestration.commands import options, reference
from orchestration.ending import reason_of
from orchestration.screen import plain
from orchestration.status import problems
from tests.orchestration.shop import Shop, foreign_to

ENGINE = "backdrop-engine"


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


def test_a_shell_completes_what_there_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.presets("") == ["base", "nano", "small", "tiny"]
    assert options.actions("r") == ["reject", "rollback"]
    assert f"{ENGINE}@champion" in options.aliases("backdrop-e")
    shop.job("autoencoder-1", 0)
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


# ── without services ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["statuss"], 2, "No such command"),
        (["trace", "no such file"], 42, "neither an image id nor a file"),
        (["run", "--preset", "huge"], 42, "huge"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_a_wrong_input_is_a_document_and_a_code(shop: Shop, arguments: list[str], code: int, said: str) -> None:
    refused(shop.ask(*arguments, code=code), code, said)


@pytest.fixture
def here(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Of this process, as of a command's."""
    for name in filter(foreign_to, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("BACKDROP_STATE", str(shop.state))
    return shop


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["status", "--jsn"], 2, "--jsn"),
        (["history", "--limit", "0"], 2, "limit"),
        (["jobs", "log", "x", "--follow"], 2, "followed"),
        (["jobs", "show", "nothing"], 42, "there is no job 'nothing'"),
        (["jobs", "reap"], 42, "not on a cluster"),
        (["trace"], 42, "what is to be traced"),
        (["trace", "x", "--list", "y"], 42, "--list"),
        (["promote", "--model", "backdrop-engin"], 42, "Did you mean"),
        (["reject", "--reason", " "], 42, "has to say why"),
        (["personalise", "a b", "--images", "/nowhere", "--word", "mug"], 42, "a b"),
        (["migrate"], 42, "no database"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_every_wrong_input_is_one(
    here: Shop,
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["backdrop", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    refused(json.loads(capfd.readouterr().out), code, said)
    assert not (here.state / "postgres.json").exists(), "no service is started for it"


def refused(document: dict[str, object], code: int, said: str) -> None:
    assert set(document) == {"error", "remedy", "exit_code"}
    assert document["exit_code"] == code
    assert said in str(document["error"])


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


def private_pem() -> bytes:
    """A new Ed25519 key as `openssl genpkey` writes it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Ed25519PrivateKey.generate().private_bytes(encoding, form, serialization.NoEncryption())


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

    # A yes that is signed: the key is made here, the token by the command.
    key = world.state / "anna.pem"
    key.write_bytes(private_pem())
    key.chmod(0o600)
    signed = world.ask("sign", "approve", "2", "--actor", "anna", "--key", f"file:{key}")
    assert set(signed) == set(reference.KEYS["backdrop sign"])
    asked = ("approve", "2", "--actor", "anna", "--token", signed["token"])
    yes = world.ask(*asked, BACKDROP_APPROVERS=f"anna={signed['public_key']}")["entry"]
    assert (yes["kind"], yes["actor"], yes["verified"]) == ("approved", "anna", True)

    # Down, it is remembered: what was promoted since too.
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
def test_a_job_that_no_run_wants_is_reaped(
    world: Shop, s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from infra.jobs.kubernetes.api import Api
    from infra.jobs.kubernetes.build import Launch, build_job
    from infra.jobs.kubernetes.settings import ClusterSettings
    from orchestration.running import look
    from tests.cluster.server import Node, TestCluster

    environment = look(Settings.load({"BACKDROP_STATE": str(world.state)})).environment
    assert environment is not None
    given = {"image": "registry.example/jobs:1", "service_account": "default"}
    (tmp_path / "cluster.yaml").write_text(json.dumps(given))
    settings = ClusterSettings.model_validate(given)
    with TestCluster(nodes=[Node("node-a", gpus=8)], command=lambda pod: time.sleep(60) or 0) as cluster:
        there = environment | {
            "BACKDROP_LAUNCHER": "kubernetes",
            "BACKDROP_CLUSTER": str(tmp_path / "cluster.yaml"),
            "BACKDROP_STORE": s3_store.uri,
            "KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig")),
        }
        for name, value in there.items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            run = instance.add_run(dg.DagsterRun("retrain", status=dg.DagsterRunStatus.CANCELED))
        launch = Launch(key="pretrained_dit-1", launch="abcdef-1", asset="pretrained_dit", partition="",
                        run_id=run.run_id, arguments=("training", "pretrain"),
                        resources=settings.resources("pretrained_dit"))  # fmt: skip
        api = Api(settings.namespace)
        api.create_job(build_job(launch, settings))
        (gone,) = world.ask("jobs", "reap", **there)["removed"]
        assert (gone["key"], gone["run"], gone["why"]) == ("pretrained_dit-1", run.run_id, "its run was cancelled")
        deadline = time.monotonic() + 20
        while api.jobs() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert api.jobs() == []


@pytest.mark.integration
def test_a_run_that_is_interrupted_says_so_in_one_line(shop: Shop) -> None:
    """While its first job runs: Dagster sees a failed step in that, and the command does not."""
    from infra.database import remove_postgres
    from infra.mlflow_server import stop_mlflow

    with shop.start("run", "--preset", "tiny", "--json") as running:
        try:
            deadline = time.monotonic() + 120
            while not (begun := list(shop.state.glob("jobs/raw_images*/log.txt"))) and time.monotonic() < deadline:
                time.sleep(0.1)
            running.send_signal(signal.SIGINT)
            out, said = running.communicate(timeout=90)
        finally:
            running.kill()
            stop_mlflow(shop.state)
            remove_postgres(shop.state)
    assert begun, f"no job began:\n{said}"
    assert (running.returncode, json.loads(out)["exit_code"]) == (130, 130), said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted: ")
