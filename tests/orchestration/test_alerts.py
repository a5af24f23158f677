"""Alerts on real services: each cause made to happen, told once to a local receiver, and never lost on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from rich.console import Console
from typer.testing import CliRunner

from assets.curation import drift as drifting
from assets.line import Line
from deploy.registry import CHAMPION, Registry
from deploy.specs import CHECKS
from infra.bundles import write_bundle
from infra.catalog import Catalog
from infra.errors import BackdropError
from infra.notify import Webhook, destinations
from infra.settings import Settings
from infra.shards import FILTERED_COLUMNS, make_version, write_slice
from orchestration.alerts import checks, runs
from orchestration.alerts.causes import FIRST, Kind
from orchestration.alerts.listing import newest
from orchestration.alerts.sensor import alerts, pages_of
from orchestration.alerts.telling import HOUR, tell
from orchestration.promoting import ENGINE, Command, carry_out
from tests.deploy.promoting import end_of, in_process
from tests.infra.receivers import Hook, Mailbox, mail_server, webhook
from tests.orchestration.alerting import PAGES, alert

# ── a world ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class World:
    """Real services, a local receiver, and the sensor as the daemon would drive it."""

    instance: dg.DagsterInstance
    hook: Hook
    cursor: str | None = None
    made: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def line(self) -> Line:
        return Line()

    @property
    def registry(self) -> Registry:
        return Registry(str(Settings.load().mlflow_uri))

    def tick(self) -> list[dict[str, Any]]:
        """One evaluation; what the receiver got in it."""
        before = len(self.hook.posts)
        resources = {"line": self.line}
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources=resources) as context:
            result = alerts(context)
        if isinstance(result, dg.SensorResult):
            self.cursor = result.cursor
            result = result.skip_reason  # type: ignore[assignment]
        self.said.append(str(getattr(result, "skip_message", result)))
        return self.hook.posts[before:]

    def assets(self, name: str, names: Sequence[str], failing: dict[str, dict[str, Any]], **metadata: Any) -> None:
        """Materialises an asset of this name, with its checks, those in `failing` failed."""
        self.made += 1
        severities = {"gate": dg.AssetCheckSeverity.WARN}
        results = [
            dg.AssetCheckResult(
                check_name=check,
                passed=check not in failing,
                severity=severities.get(check, dg.AssetCheckSeverity.ERROR),
                metadata=failing.get(check, {}),
            )
            for check in names
        ]

        @dg.asset(name=name, check_specs=[dg.AssetCheckSpec(check, asset=name) for check in names])
        def made() -> dg.MaterializeResult:
            return dg.MaterializeResult(metadata={"data_version": f"v{self.made}", **metadata}, check_results=results)

        dg.materialize([made], instance=self.instance)

    def champion(self, dataset: str = "", version: str = "") -> str:
        """A new engine that is made champion at once; its version."""
        if not version:
            line = self.line
            bundle = write_bundle(line.store, "engines", "engine", {"trunk.onnx": f"{time.time_ns()}".encode()}, {})
            version = self.registry.register(ENGINE, bundle)
            if dataset:
                line.catalog.record_model(
                    id=bundle, asset="tensorrt_engine", data_version="v", dataset_version=dataset, mlflow_run=None
                )
        carry_out(self.line, Command("promote", ENGINE, version, reason="a test"))
        return version


@pytest.fixture(scope="module")
def services_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    from infra.database import remove_postgres
    from infra.services import wait_for_mlflow
    from orchestration.services import services

    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("BACKDROP_")]:
        del os.environ[name]
    state = tmp_path_factory.mktemp("alerts") / "state"
    os.environ["BACKDROP_STATE"] = str(state)
    try:
        with services(Settings.load(), Console(quiet=True)) as environment:
            os.environ.update(environment)
            wait_for_mlflow(Settings.load())
            with dg.DagsterInstance.get() as instance:
                yield instance
    finally:
        remove_postgres(state)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def world(services_up: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Nothing was told yet, and nothing that happened before counts."""
    from sqlalchemy import text

    with Line().catalog.engine.begin() as connection:
        connection.execute(text("TRUNCATE alerts, alert_messages"))
    monkeypatch.setattr(checks, "SETTLE", -1.0)  # what a test has written is whole
    for module in (runs, checks):
        monkeypatch.setattr(module, "LOOK_BACK", timedelta(0))
    monkeypatch.setattr("orchestration.alerts.champion.LOOK_BACK", timedelta(0))
    with webhook() as hook:
        monkeypatch.setenv("BACKDROP_ALERT_WEBHOOK", f"{hook.url}/hooks/secret-path")
        monkeypatch.setenv("BACKDROP_RUNBOOK", PAGES.runbook)
        world = World(services_up, hook)
        world.tick()  # what is left of other tests
        hook.posts.clear()
        yield world


def failing_job(message: str) -> dg.JobDefinition:
    @dg.op
    def breaks() -> None:
        raise BackdropError(message, "do this")

    @dg.job(name="retrain_of_a_test")
    def broken() -> None:
        breaks()

    return broken


def fail(world: World, message: str = "the disk is full") -> str:
    done = failing_job(message).execute_in_process(instance=world.instance, raise_on_error=False)
    assert not done.success
    return done.run_id


def storm(world: World, count: int) -> list[str]:
    job = failing_job("boom")
    made = [world.instance.create_run_for_job(job) for _ in range(count)]
    for run in made:
        world.instance.report_run_failed(run)
    return [run.run_id for run in made]


# ── each cause ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.integration
def test_a_run_that_fails_is_told_once(world: World) -> None:
    assert world.tick() == []
    run = fail(world)
    [post] = world.tick()
    assert post["kind"] == "run-failed"
    assert post["key"].startswith(f"run-failed:{run}#")
    assert f"run {run[:8]} of retrain_of_a_test failed in breaks" in post["text"]
    assert "the disk is full" in post["text"]
    assert post["links"] == {"run": f"http://127.0.0.1:3000/runs/{run}"}
    assert post["runbook"] == f"{PAGES.runbook}#run-failed"
    assert f"since {datetime.now(UTC):%Y-%m-%d}" in post["text"]
    assert FIRST[Kind.RUN_FAILED] in post["text"]
    assert world.tick() == []
    assert world.said[-1].startswith("0 new causes; 0 messages sent")
    another = fail(world)
    assert [one["causes"] for one in world.tick()] == [[f"run-failed:{another}"]]


@pytest.mark.integration
def test_a_run_that_dagster_launches_again_is_no_cause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(world.instance), "run_retries_enabled", property(lambda _: True))
    tags = {"dagster/max_retries": "2"}
    failing_job("evicted").execute_in_process(instance=world.instance, raise_on_error=False, tags=tags)
    assert world.tick() == []
    run = fail(world)  # nobody tries this one again
    tag = world.instance.get_run_by_id(run).tags.get("dagster/will_retry")  # type: ignore[union-attr]
    assert [one["kind"] for one in world.tick()] == (["run-failed"] if tag == "false" else [])


@pytest.mark.integration
def test_a_refusal_is_told_once_until_the_alias_moves(world: World) -> None:
    first, second = world.champion(), world.champion()
    world.registry.tag(ENGINE, first, {"backdrop.tainted": "takedown 99: a test"})
    assert world.tick() == []
    for _ in range(3):  # night after night
        with pytest.raises(BackdropError, match="is tainted"):
            carry_out(world.line, Command("promote", ENGINE, first, reason="again"))
        time.sleep(0.01)
    [post] = world.tick()
    assert post["kind"] == "gate-refused"
    assert f"version {first} of {ENGINE} was refused as @champion" in post["text"]
    assert "takedown 99: a test" in post["text"]
    assert f"#/models/{ENGINE}/versions/{first}" in post["links"]["model"]
    assert world.tick() == []
    world.champion()
    assert world.tick() == []
    assert newest(world.line.catalog, 1)[0]["ended_at"] is not None
    with pytest.raises(BackdropError, match="is tainted"):
        carry_out(world.line, Command("promote", ENGINE, first, reason="again"))
    assert [one["kind"] for one in world.tick()] == ["gate-refused"], "it ended and came again"
    assert second


@pytest.mark.integration
def test_a_report_that_refuses_its_engine(world: World) -> None:
    world.assets("evaluation_report", CHECKS, {})
    assert world.tick() == []
    failing = {"wall_colour": {"share": 0.4, "bar": 0.9}, "gate": {"reason": "adherence is not surely better"}}
    world.assets("evaluation_report", CHECKS, failing, **{"file: report": "/somewhere/report.html"})
    [post] = world.tick()
    assert post["kind"] == "gate-refused"
    assert "refused by wall_colour, gate" in post["text"]
    assert "adherence is not surely better" in post["text"]
    assert "share 0.4" in post["text"]
    assert post["links"]["report"] == "/somewhere/report.html"
    assert world.tick() == []
    world.assets("evaluation_report", CHECKS, {})
    assert world.tick() == []
    assert newest(world.line.catalog, 1)[0]["ended_at"] is not None


@pytest.mark.integration
def test_pixels_that_the_evaluation_found_changed(world: World) -> None:
    world.assets("evaluation_report", CHECKS, {"product_identity": {"note": "nothing was generated"}})
    assert [one["kind"] for one in world.tick()] == ["gate-refused"], (
        "nothing was measured: no pixel was seen to change"
    )
    world.assets("evaluation_report", CHECKS, {"product_identity": {"identical": 0.98}})
    [post] = world.tick()
    assert post["kind"] == "pixels-violated"
    assert "identical 0.98" in post["text"]
    world.assets("evaluation_report", CHECKS, {})
    world.tick()


@pytest.mark.integration
def test_an_engine_that_fell_back(world: World) -> None:
    world.assets("tensorrt_engine", ("engine_parity",), {}, backend="tensorrt")
    world.assets("evaluation_report", CHECKS, {}, backend="tensorrt")
    assert world.tick() == []
    world.assets("evaluation_report", CHECKS, {}, backend="onnxruntime", fallback="the plan is not signed")
    [post] = world.tick()
    assert post["kind"] == "engine-fallback"
    assert "made for tensorrt and was judged on onnxruntime" in post["text"]
    assert "the plan is not signed" in post["text"]
    world.assets("tensorrt_engine", ("engine_parity",), {}, backend="onnxruntime")
    assert world.tick() == []


@pytest.mark.integration
def test_what_the_studio_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    registry = CollectorRegistry()
    fallbacks = Counter("engine_fallback", "as the studio's", registry=registry)
    violations = Counter("product_pixels_violated", "as the studio's", registry=registry)
    monkeypatch.setenv("BACKDROP_STUDIO_URL", world.hook.url)

    def told() -> list[str]:
        world.hook.page = generate_latest(registry)
        return [one["kind"] for one in world.tick()]

    assert told() == []
    fallbacks.inc()
    assert told() == ["engine-fallback"]
    assert told() == []
    violations.inc()
    assert told() == ["pixels-violated"]
    violations.inc()
    assert told() == ["pixels-violated"], "one more is another"
    monkeypatch.setenv("BACKDROP_STUDIO_URL", "http://127.0.0.1:1")
    assert world.tick() == []
    assert "cannot be looked at" in world.said[-1]
    assert newest(world.line.catalog, 1)[0]["ended_at"] is None, "silence is no end"


@pytest.mark.integration
def test_a_delivery_that_drifts(world: World) -> None:
    shifted = drifting.compare_counts("resolution_drift", "resolution", [500, 0], [0, 500], drifting.SHIFT_LIMIT)
    same = drifting.compare_counts("resolution_drift", "resolution", [500, 0], [500, 0], drifting.SHIFT_LIMIT)

    @dg.asset(
        name="filtered_shards",
        partitions_def=dg.StaticPartitionsDefinition(["monday", "tuesday"]),
        check_specs=[dg.AssetCheckSpec(name, asset="filtered_shards") for name in drifting.CHECKS],
        config_schema={"drifts": bool},
    )
    def shards(context) -> dg.MaterializeResult:  # type: ignore[no-untyped-def]  # Dagster reads no text as a type
        drift = shifted if context.op_execution_context.op_config["drifts"] else same
        found = drifting.checks(drifting.Comparison(("sunday",), (drift,)))
        return dg.MaterializeResult(
            metadata={"data_version": "v"},
            check_results=[
                dg.AssetCheckResult(
                    check_name=one.name, passed=one.passed, severity=dg.AssetCheckSeverity.WARN, metadata=one.metadata
                )
                for one in found
            ],
        )

    def curate(delivery: str, drifts: bool) -> None:
        config = {"ops": {"filtered_shards": {"config": {"drifts": drifts}}}}
        dg.materialize([shards], instance=world.instance, partition_key=delivery, run_config=config)

    curate("monday", drifts=True)
    curate("tuesday", drifts=False)  # what comes after must not hide it
    [post] = world.tick()
    assert post["kind"] == "drift"
    assert post["title"] == "delivery monday looks unlike those before: resolution_drift"
    assert "shift" in post["text"]
    assert "partition=monday" in post["links"]["asset"]
    assert world.tick() == []
    curate("monday", drifts=True)
    assert world.tick() == [], "it still is the same"
    curate("monday", drifts=False)
    assert world.tick() == []
    curate("monday", drifts=True)
    assert [one["kind"] for one in world.tick()] == ["drift"], "it ended and came again"


@pytest.mark.integration
def test_a_champion_that_has_seen_what_was_taken_down(world: World) -> None:
    line = world.line
    image = f"{world.made + time.time_ns():064x}"[-64:]
    row = {
        "id": image, "image": b"x", "mask": b"", "captions": ["a cup"], "attributes": {}, "width": 8, "height": 8,
        "source": "shop",
    }  # fmt: skip
    piece = write_slice(line.store, "slices", FILTERED_COLUMNS, [row], {"split": "train"})
    delivery = f"d{time.time_ns()}"
    line.catalog.add_delivery(delivery, f"file:///{delivery}", "folder")
    line.catalog.stage_slice(delivery, piece, "chunk", [(image, "shard.00000.mds", 0)])
    line.catalog.commit_slices(delivery, [piece])
    version = make_version(line.store, [piece])
    line.catalog.add_dataset_version(version)
    clean = world.champion()
    tainted = world.champion(version.version)
    assert world.tick() == []
    order = line.catalog.order_takedown(delivery, "the licence ended", [image])
    [post] = world.tick()
    assert post["kind"] == "tainted-champion"
    assert post["causes"] == [f"tainted:{ENGINE}:{tainted}:{order.id}"]
    assert "the licence ended" in post["text"]
    assert world.tick() == []
    bundle = world.registry.version(ENGINE, tainted).bundle
    world.registry.taint(ENGINE, bundle, order.why)
    line.catalog.finish_takedown(order.id, {})
    assert world.tick() == [], "its tag says the same"
    assert newest(world.line.catalog, 1)[0]["ended_at"] is None
    carry_out(world.line, Command("rollback", ENGINE, reason="tainted"))
    assert world.registry.aliases(ENGINE)[CHAMPION] == clean
    assert world.tick() == []
    assert newest(world.line.catalog, 1)[0]["ended_at"] is not None


@pytest.mark.integration
def test_a_budget_that_is_spent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_GPU_HOURS_PER_WEEK", "1000")
    world.assets("pretrained_dit", (), {}, gpu_seconds=7200.0)
    assert world.tick() == []
    monkeypatch.setenv("BACKDROP_GPU_HOURS_PER_WEEK", "1.5")
    [post] = world.tick()
    assert post["kind"] == "budget"
    assert "paused by the budget" in post["text"]
    assert "1.5 are allowed" in post["text"]
    assert post["links"] == {"automation": "http://127.0.0.1:3000/automation"}
    assert world.tick() == []
    monkeypatch.setenv("BACKDROP_GPU_HOURS_PER_WEEK", "1000")
    assert world.tick() == []
    monkeypatch.setenv("BACKDROP_GPU_HOURS_PER_WEEK", "1.5")
    assert [one["kind"] for one in world.tick()] == ["budget"], "it ended and came again"


# ── the way there ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.integration
def test_a_hundred_failed_runs_are_one_message(world: World) -> None:
    failed = storm(world, 100)
    [post] = world.tick()
    assert post["title"] == "100 runs have failed"
    assert post["count"] == 100
    assert set(post["causes"]) == {f"run-failed:{run}" for run in failed}
    assert "and 90 more" in post["text"]
    storm(world, 20)
    assert world.tick() == [], "the next digest waits for its hour"
    catalog, targets = world.line.catalog, destinations(Settings.load())
    tell(catalog, targets, PAGES, lambda: datetime.now(UTC) + HOUR)
    assert world.hook.posts[-1]["title"] == "20 runs have failed"


@pytest.mark.integration
def test_a_receiver_that_is_away_gets_everything_when_it_is_back(world: World) -> None:
    catalog, targets = world.line.catalog, destinations(Settings.load())
    world.hook.answers = [503, "hang up", (429, {"Retry-After": "1000"}), (307, {"Location": "http://127.0.0.1:1/"})]
    fail(world)
    fail(world)
    assert world.tick() == []
    assert "1 not taken" in world.said[-1], "the second message is not tried on a receiver that is away"
    assert len(world.hook.answers) == 3
    assert world.tick() == []
    now = datetime.now(UTC)
    seconds = [31, 31 + 61, 31 + 61 + 1001, 4000, 8000, 12000]
    for number, wait in enumerate(seconds):
        at = now + timedelta(seconds=wait + number)
        tell(catalog, targets, PAGES, lambda at=at: at)  # type: ignore[misc]
    assert world.hook.answers == []
    assert len(world.hook.posts) == 2
    assert len(set(world.hook.keys())) == 2
    assert [row["told"] for row in newest(world.line.catalog, 2)] == ["webhook", "webhook"]


@pytest.mark.integration
def test_what_a_receiver_refuses_does_not_keep_the_next_one(world: World) -> None:
    world.hook.answers = [400]
    fail(world)
    fail(world)
    assert len(world.tick()) == 1
    [second, first] = newest(world.line.catalog, 2)
    assert first["told"] == "webhook: not yet, tried 1 times: 127.0.0.1 answers 400"
    assert second["told"] == "webhook"


def killed(step: str) -> int:
    """A go that is killed at a step; how it ended."""

    def doomed() -> None:
        catalog: Any = Catalog(str(Settings.load().catalog_url))
        end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        if step == "before it is sent":
            Webhook.send = end  # type: ignore[method-assign,assignment]
        else:
            catalog.message_sent = end
        tell(catalog, destinations(Settings.load()), PAGES, lambda: datetime.now(UTC))

    return end_of(in_process(doomed))


@pytest.mark.integration
@pytest.mark.parametrize(("step", "copies"), [("before it is sent", 1), ("before it is marked", 2)])
def test_killed_between_writing_and_marking(world: World, step: str, copies: int) -> None:
    """Neither lost nor sent for ever: at most one copy for a kill, with the same key."""
    world.line.catalog.begin_alerts([alert(1, datetime.now(UTC))], ["webhook"], datetime.now(UTC))
    assert killed(step) == -signal.SIGKILL
    tell(world.line.catalog, destinations(Settings.load()), PAGES, lambda: datetime.now(UTC))
    for _ in range(3):
        tell(world.line.catalog, destinations(Settings.load()), PAGES, lambda: datetime.now(UTC) + HOUR)
    assert len(world.hook.posts) == copies
    assert len(set(world.hook.keys())) == 1
    assert {headers["Idempotency-Key"] for headers, _ in world.hook.raw} == set(world.hook.keys())


@pytest.mark.integration
def test_one_at_a_time(world: World) -> None:
    fail(world)
    with world.line.catalog.alerts_lock() as mine:
        assert mine
        assert world.tick() == []
        assert world.said[-1] == "another one is at it"
    assert len(world.tick()) == 1


@pytest.mark.integration
def test_by_mail_too_and_a_new_destination_hears_of_what_still_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fail(world)
    world.assets("evaluation_report", CHECKS, {"gate": {"reason": "no better"}})
    assert len(world.tick()) == 2
    with mail_server(Mailbox()) as box:
        monkeypatch.setenv("BACKDROP_ALERT_EMAIL", "anna@example.com")
        monkeypatch.setenv("BACKDROP_SMTP", f"smtp://127.0.0.1:{box.port}")
        assert world.tick() == []
        assert [mail["Subject"] for mail in box.mails] == ["[Backdrop] the newest engine was refused by gate"]
        assert run not in box.mails[0].get_content(), "a run that failed before is no news"
        fail(world)
        assert len(world.tick()) == 1
        assert len(box.mails) == 2
        text = box.mails[1].get_content()
        assert "the disk is full" in text
        assert "#run-failed" in text
    world.assets("evaluation_report", CHECKS, {})
    world.tick()


@pytest.mark.integration
def test_nothing_secret_is_written_down_or_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import text

    monkeypatch.setenv("HOOK_KEY", "very-secret-key")
    monkeypatch.setenv("BACKDROP_ALERT_WEBHOOK_KEY", "env:HOOK_KEY")
    world.hook.answers = [404]
    fail(world, "cannot reach postgresql://anna:hunter2@db/x")
    world.tick()
    with world.line.catalog.engine.begin() as connection:
        rows = [dict(row._mapping) for name in ("alerts", "alert_messages") for row in
                connection.execute(text(f"SELECT * FROM {name}"))]  # fmt: skip
    everything = json.dumps([rows, world.said, world.cursor], default=str)
    for word in ("hunter2", "secret-path", "very-secret-key"):
        assert word not in everything


@pytest.mark.integration
def test_a_source_that_is_away_silences_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.assets("evaluation_report", CHECKS, {"gate": {"reason": "no better"}})
    world.tick()
    monkeypatch.setenv("BACKDROP_MLFLOW_URI", "http://127.0.0.1:1")
    fail(world)
    assert [one["kind"] for one in world.tick()] == ["run-failed"]
    assert "champion cannot be looked at" in world.said[-1]
    world.assets("evaluation_report", CHECKS, {})
    world.tick()


@pytest.mark.integration
def test_what_fails_while_the_catalog_is_away_is_told_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    there = os.environ["BACKDROP_CATALOG_URL"]
    monkeypatch.setenv("BACKDROP_CATALOG_URL", "postgresql://nobody@127.0.0.1:1/none")
    run = fail(world)
    with pytest.raises(BackdropError):
        world.tick()
    monkeypatch.setenv("BACKDROP_CATALOG_URL", there)
    assert [one["causes"] for one in world.tick()] == [[f"run-failed:{run}"]]


@pytest.mark.integration
def test_without_a_destination_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKDROP_ALERT_WEBHOOK")
    fail(world)
    assert world.tick() == []
    assert "BACKDROP_ALERT_WEBHOOK" in world.said[-1]


@pytest.mark.integration
def test_the_status_asks_the_catalog_that_it_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestration.status_gathered import gather

    fail(world)
    world.tick()
    line = world.line
    assert line.catalog.newest_alerts(1)
    monkeypatch.setenv("BACKDROP_CATALOG_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert gather(line, world.instance, mlflow_up=True)["alerts"][0]["kind"] == "run-failed"


@pytest.mark.integration
def test_the_command_lists_and_tries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestration.cli import app

    fail(world)
    world.tick()
    listed = CliRunner().invoke(app, ["alerts", "--limit", "5"])
    assert listed.exit_code == 0, listed.output
    assert "run-failed" in listed.output
    [told] = json.loads(CliRunner().invoke(app, ["alerts", "--limit", "1", "--json"]).stdout)
    assert (told["kind"], told["told"]) == ("run-failed", "webhook")
    tried = CliRunner().invoke(app, ["alerts", "--test"])
    assert tried.exit_code == 0, tried.output
    assert "webhook: taken" in tried.output
    assert world.hook.posts[-1]["kind"] == "test"
    world.hook.answers = [500]
    refused = CliRunner().invoke(app, ["alerts", "--test"])
    assert isinstance(refused.exception, BackdropError)
    assert "webhook: 127.0.0.1 answers 500" in refused.exception.what
    monkeypatch.delenv("BACKDROP_ALERT_WEBHOOK")
    nowhere = CliRunner().invoke(app, ["alerts", "--test"])
    assert isinstance(nowhere.exception, BackdropError)


def test_links_lead_where_people_open_things() -> None:
    here = pages_of(Settings.load({}))
    assert here.dagster == "http://127.0.0.1:3000"
    assert here.section(Kind.DRIFT) == "docs/runbook.md#drift"
    there = pages_of(Settings.load({"BACKDROP_LAUNCHER": "kubernetes"}))
    assert there.run("abc") == {}
    given = Settings.load({"BACKDROP_DAGSTER_PAGE": "https://d/", "BACKDROP_LAUNCHER": "kubernetes"})
    assert pages_of(given).run("abc") == {"run": "https://d/runs/abc"}
    assert replace(PAGES, mlflow="").model(ENGINE, "1") == {}
