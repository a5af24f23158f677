"""The asset, the commands and the jobs of promotion on real services: one way to the champion, whoever asks."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from rich.console import Console

from assets.line import Line
from assets.promotion import HUMAN_APPROVAL, human_approval, promotion
from deploy.registry import Registry
from infra.bundles import write_bundle
from infra.errors import BackdropError
from infra.jobs.spec import Check, JobResult
from infra.settings import Settings
from orchestration.promoting import ENGINE, Command, carry_out, run_command, show_history, show_token
from orchestration.promotion_jobs import watch_champion

pytestmark = pytest.mark.integration

OTHERS = (("evaluation_report", "gate"), ("tensorrt_engine", "engine_parity"))
CHECK = dg.AssetCheckKey(dg.AssetKey("tensorrt_engine"), HUMAN_APPROVAL)


@dataclass
class World:
    """Real services, and a line whose engines and reports are written by hand."""

    settings: Settings
    console: Console
    page: io.StringIO
    instance: dg.DagsterInstance
    made: int = 0

    @property
    def line(self) -> Line:
        return Line()  # with the settings of now

    @property
    def registry(self) -> Registry:
        return Registry(str(Settings.load().mlflow_uri))

    def said(self) -> str:
        text = self.page.getvalue()
        self.page.seek(0)
        self.page.truncate()
        return text

    def engine(self, decision: bool | None, champion: str | None = None, fails: bool = False) -> str:
        """A new engine with its report: what the gate said, against the bundle `champion`. Its version's number."""
        self.made += 1
        line = self.line
        bundle = write_bundle(line.store, "engines", "engine", {"trunk.onnx": str(self.made).encode()}, {})
        checks = [Check(name="engine_parity", passed=not fails)]
        reason = "adherence is better" if decision else "adherence is not surely better; the champion stays"
        gate = None if decision is None else {"promote": decision, "reason": reason, "evidence": [{"p": 0.001}]}
        self._materialise("tensorrt_engine", JobResult(data={"engine": bundle}))
        self._materialise(
            "evaluation_report",
            JobResult(data={"engine": bundle, "champion": champion, "decision": gate}, checks=checks),
        )
        return self.registry.register(ENGINE, bundle)

    def _materialise(self, asset: str, result: JobResult) -> None:
        key = f"stages/{asset}/{self.made}/result.json"
        self.line.store.put(key, result.model_dump_json().encode())
        metadata = {"result": key, "data_version": f"v{self.made}"}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))

    def promote(self) -> dict[str, Any]:
        """Materialises the asset, with its upstream's check."""
        defs = [promotion, human_approval]
        done = dg.materialize(defs, instance=self.instance, resources={"line": self.line}, raise_on_error=True)
        event = done.asset_materializations_for_node("promotion")[0]
        return {name: value.value for name, value in event.metadata.items()}

    def bundle(self, version: str) -> str:
        return self.registry.version(ENGINE, version).bundle

    def approved(self) -> bool | None:
        """The check's result for the newest engine; None where there is none."""
        record = self.instance.event_log_storage.get_latest_asset_check_execution_by_key([CHECK]).get(CHECK)
        newest = self.instance.fetch_materializations(CHECK.asset_key, limit=1).records[0]
        if record is None or record.event is None or record.event.timestamp < newest.timestamp:
            return None
        return bool(record.event.dagster_event.asset_check_evaluation_data.passed)  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from infra.database import remove_postgres
    from infra.services import wait_for_mlflow
    from orchestration.services import services

    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("BACKDROP_")]:
        del os.environ[name]
    state = tmp_path_factory.mktemp("promoting") / "state"
    os.environ["BACKDROP_STATE"] = str(state)
    page = io.StringIO()
    console = Console(file=page, width=250)
    try:
        with services(Settings.load(), console) as environment:
            os.environ.update(environment)
            wait_for_mlflow(Settings.load())
            with dg.DagsterInstance.get() as instance:
                yield World(Settings.load(), console, page, instance)
    finally:
        remove_postgres(state)
        os.environ.clear()
        os.environ.update(before)


def test_from_the_first_champion_to_a_rollback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.engine(None)
    assert world.promote()["outcome"] == "champion"
    assert world.registry.aliases(ENGINE) == {"challenger": first, "champion": first}

    # The gate keeps one back, a failed check another, the third is promoted.
    world.engine(False, world.bundle(first))
    assert world.promote()["outcome"] == "adherence is not surely better; the champion stays"
    world.engine(True, world.bundle(first), fails=True)
    assert world.promote()["outcome"] == "failed engine_parity"
    third = world.engine(True, world.bundle(first))
    made = world.promote()
    assert (made["outcome"], made["champion_version"], made["previous"]) == ("champion", int(third), first)
    newest = world.line.catalog.entries(ENGINE)[0]
    assert (newest.who, newest.reason) == ("unverified actor the line", "adherence is better")
    assert newest.evidence["gate"] == [{"p": 0.001}]
    assert newest.run
    described = world.registry._client().get_model_version(ENGINE, third)
    assert described.description.startswith(f"# {ENGINE} version {third}")
    assert described.tags["backdrop.model_card"].endswith("/model-card.html")
    assert "<h1>" in Path(made["file: model card"]).read_text()

    # Evidence against a champion of before does not count.
    world.engine(True, world.bundle(first))
    assert "the evidence compares with 1" in world.promote()["outcome"]

    # A human's way, and back. The commands' own work, with the services up.
    run_command(world.settings, world.console, Command("promote", version="2", reason="looked at it"))
    assert "version 2 of backdrop-engine is champion; @previous is" in world.said()
    began = time.monotonic()
    run_command(world.settings, world.console, Command("rollback", reason="it is slow"))
    print(f"`backdrop rollback`: {time.monotonic() - began:.2f} s (promise: 2 s)")
    assert world.registry.aliases(ENGINE)["champion"] == third
    world.said()
    show_history(world.settings, world.console, ENGINE, 30)
    found = world.said()
    assert all(part in found for part in ("it is slow", "looked at it", "adherence is better", "refused", "intent"))
    assert f"@champion {third}  @previous 2" in found

    # An alias that a hand has moved: the check says so, once.
    world.registry.set_alias(ENGINE, "champion", first)
    world.promote()
    checks = world.instance.event_log_storage.get_latest_asset_check_execution_by_key
    key = dg.AssetCheckKey(dg.AssetKey("promotion"), "alias_as_recorded")

    def as_recorded() -> bool:
        return checks([key])[key].event.dagster_event.asset_check_evaluation_data.passed  # type: ignore[union-attr]

    assert as_recorded() is False
    fifth = world.registry.aliases(ENGINE)["champion"]  # its evidence was against the first, which a hand brought back
    assert fifth == "5"
    world.registry.set_alias(ENGINE, "champion", third)
    looked = [watch_champion(dg.build_sensor_context(instance=world.instance), line=world.line) for _ in range(2)]
    assert isinstance(looked[0], dg.SensorResult)
    (event,) = looked[0].asset_events
    assert (event.passed, event.metadata["moved"].value) == (False, f"from {fifth} to {third}")  # type: ignore[union-attr]
    assert isinstance(looked[1], dg.SkipReason)


def test_a_policy_that_asks_for_a_human(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from deploy.signing import Signer

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "anna.pem").write_bytes(pem)
    (tmp_path / "anna.pem").chmod(0o600)
    key = f"file:{tmp_path}/anna.pem"
    monkeypatch.setenv("BACKDROP_APPROVAL", "required")
    monkeypatch.setenv("BACKDROP_APPROVERS", f"anna={Signer(private).public}")
    champion = world.registry.aliases(ENGINE).get("champion")
    version = world.engine(True, world.bundle(champion) if champion else None)
    assert world.promote()["outcome"] == f"Version {version} of {ENGINE} waits for approval."
    assert world.registry.aliases(ENGINE).get("champion") == champion

    for unknown in (Command("approve", actor="anna"), Command("approve", actor="eve", key=key)):
        with pytest.raises(BackdropError, match="Unknown actor"):
            run_command(Settings.load(), world.console, unknown)
        attempt = world.line.catalog.entries(ENGINE)[0]
        assert (attempt.kind, attempt.to_version, attempt.who) == (
            "refused", version, f"unverified actor {unknown.actor}",
        )  # fmt: skip
        assert attempt.reason.startswith("Unknown actor")
        assert attempt.evidence == {}, "no token is kept of it"
    with pytest.raises(BackdropError, match="--key is no reference to a key"):
        run_command(Settings.load(), world.console, Command("approve", key=f"{tmp_path}/anna.pem"))
    with pytest.raises(BackdropError, match="no key to sign with"):
        show_token(Settings.load(), world.console, Command("approve"))
    assert world.approved() is None
    signed = Command("approve", version=f"0{version}", reason="50 pictures", actor="anna", key=key)
    run_command(Settings.load(), world.console, signed)  # 04 is 4, in the row and in what is signed
    token = str(world.line.catalog.entries(ENGINE)[0].evidence["token"])
    with pytest.raises(BackdropError, match="was used already"):
        carry_out(world.line, Command("approve", version=version, token=token))
    with pytest.raises(BackdropError, match="token is damaged"):
        carry_out(world.line, Command("approve", version=version, token=token + "!"))
    assert f"version {version} of {ENGINE} is approved by anna" in world.said()
    assert world.approved() is True
    assert world.promote()["champion_version"] == int(version)

    # Another checkpoint: the yes was for the one before.
    another = world.engine(True, world.bundle(version))
    assert world.approved() is None
    assert "waits for approval" in world.promote()["outcome"]
    show_token(Settings.load(), world.console, Command("approve", actor="anna", key=key))
    token = max(world.said().split(), key=len)
    done = job(world, "approve", version=another, reason="fine", token=token)
    assert done["outcome"] == f"version {another} of {ENGINE} is approved by anna"
    with pytest.raises(BackdropError, match="The token is for: approve"):
        carry_out(world.line, Command("promote", version=another, token=token))
    assert world.promote()["champion_version"] == int(another)
    entry = world.line.catalog.entries(ENGINE)[0]
    assert (entry.kind, entry.actor, entry.verified) == ("done", "the line", False)


def job(world: World, name: str, **config: Any) -> dict[str, Any]:
    """Runs one of the jobs as the web UI would; what its op's output says."""
    from orchestration.definitions import defs

    resolved = defs.resolve_job_def(name)
    op = resolved.nodes[0].name
    done = resolved.execute_in_process(
        instance=world.instance, resources={"line": world.line}, run_config={"ops": {op: {"config": config}}}
    )
    output = next(event for event in done.all_events if event.is_successful_output)
    return {key: value.value for key, value in output.step_output_data.metadata.items()}


def test_the_same_as_jobs(world: World) -> None:
    versions = [world.engine(None) for _ in range(2)]
    assert job(world, "promote", version=versions[0], reason="by job")["outcome"].startswith(f"version {versions[0]}")
    done = job(world, "promote", version=versions[1], reason="by job", actor="bo")
    assert done["who"] == "unverified actor bo"
    back = job(world, "rollback", reason="back")
    assert back["outcome"].startswith(f"version {versions[0]} of {ENGINE} is champion")
    done = job(world, "reject", version=versions[1], reason="cups", actor="bo")
    assert done["outcome"].endswith("is rejected by unverified actor bo")
    with pytest.raises(BackdropError, match="was rejected by"):
        job(world, "promote", version=versions[1], reason="again")
    for name, config in (("history", {"limit": -1}), ("reject", {"version": versions[1]})):
        with pytest.raises(Exception, match=r"limit|reason"):
            job(world, name, **config)
    ledger = job(world, "history", limit=3)
    assert ledger["rows"] == 3
    assert "| refused |" in ledger["ledger"]


def test_mistakes_are_one_message(world: World) -> None:
    for command, message in (
        (Command("promote", version="99"), "There is no version 99"),
        (Command("promote", model="backdrop-engin"), "Did you mean 'backdrop-engine'"),
        (Command("promot"), "Did you mean 'promote'"),
        (Command("rollback", row=10_000), "Row 10000 of the ledger is none"),
        (Command("promote", model="backdrop-autoencoder"), "backdrop-autoencoder has no @challenger"),
        (Command("promote", token="nonsense", version="1"), "The token is damaged"),
        (Command("promote", version="99999999999"), "There is no version 99999999999"),
        (Command("promote", version="1", reason=" "), "promote has no reason"),
    ):
        with pytest.raises(BackdropError, match=message):
            carry_out(world.line, command)
    rows = world.line.catalog.entries(ENGINE, limit=3)
    assert [(row.kind, row.to_version) for row in rows] == [("refused", to) for to in ("99999999999", "1", "99")]


def test_a_command_begins_with_what_was_left(world: World) -> None:
    """A promotion was killed after it had moved the alias, and the next command is a rollback."""
    from deploy.approvals import Actor
    from deploy.promotion import Request

    versions = [world.engine(None) for _ in range(3)]
    for version in versions[:2]:
        carry_out(world.line, Command("promote", version=version))
    killed = Request(ENGINE, versions[2], Actor("killed"), "")
    world.line.catalog.add_entry(killed.entry("intent", world.bundle(versions[2]), before=versions[1]))
    world.registry.set_alias(ENGINE, "champion", versions[2])
    back = carry_out(world.line, Command("rollback"))
    assert world.registry.aliases(ENGINE)["champion"] == versions[1]
    assert [(entry.kind, entry.to_version) for entry in back.noticed] == [("done", versions[2])]
    assert back.entry is not None
    assert back.entry.reason == "asked on the command line"

    # A hand has unset it: the yes says so.
    world.registry.drop_alias(ENGINE, "champion")
    yes = carry_out(world.line, Command("approve", version=versions[0]))
    assert [entry.kind for entry in yes.noticed] == ["found"]


def test_the_command_line_refuses_what_no_command_could_do(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestration.cli import main

    for arguments, code, said in (
        (["history", "--limit", "-1"], 2, "limit"),
        (["reject", "1"], 2, "reason"),
        (["promote", "--model", "[/x]"], 42, "There is no registered model '[/x]'"),
    ):
        monkeypatch.setattr("sys.argv", ["backdrop", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        assert said in capsys.readouterr().err


def test_a_yes_asks_for_the_promotion(world: World) -> None:
    """By its automation condition: once for each yes, and not for a no."""
    from assets.evaluation_report import evaluation_report
    from assets.tensorrt_engine import tensorrt_engine

    gate, parity = (dg.AssetCheckKey(dg.AssetKey(asset), name) for asset, name in OTHERS)

    def other(key: dg.AssetCheckKey) -> dg.AssetChecksDefinition:
        return dg.asset_check(asset=key.asset_key, name=key.name)(lambda: dg.AssetCheckResult(passed=True))

    defs = dg.Definitions(
        assets=[promotion, dg.AssetSpec("evaluation_report"), dg.AssetSpec("tensorrt_engine")],
        asset_checks=[human_approval, other(gate), other(parity)],
        resources={"line": world.line},
    )
    assert {tensorrt_engine.key, evaluation_report.key} == promotion.asset_deps[dg.AssetKey("promotion")]
    cursor = None

    def requested() -> int:
        nonlocal cursor
        found = dg.evaluate_automation_conditions(defs, world.instance, cursor=cursor)
        cursor = found.cursor
        return found.get_num_requested(dg.AssetKey("promotion"))

    version = world.engine(None)
    requested()
    assert requested() == 0
    for key in (gate, parity):  # a report's gate, or the engine's own check, is no yes
        passed = dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, passed=True)
        world.instance.report_runless_asset_event(passed)
        assert requested() == 0
    carry_out(world.line, Command("reject", version=version, reason="no"))
    assert requested() == 0
    carry_out(world.line, Command("approve", version=version, reason="yes"))
    assert requested() == 1
    assert requested() == 0
