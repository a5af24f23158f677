"""The automations on real services, with jobs that take no time: from a delivery to a takedown's retraining."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from assets.curation.takedown import Takedown
from assets.line import Line
from orchestration.automation import triggers
from tests.assets.workshop import image_id
from tests.orchestration.automated import ENGINE, Works, factory

__all__ = ["factory"]
pytestmark = pytest.mark.integration


def tick(works: Works, name: str, line: Line | None = None) -> list[dg.RunRequest] | str:
    """What a schedule or the sensor answers now: its runs, or why there are none."""
    resources = {"line": line or works.line}
    if name == "early_retraining":
        with dg.build_sensor_context(instance=works.instance, resources=resources) as context:
            found: Any = triggers.early_retraining(context)
    else:
        with dg.build_schedule_context(instance=works.instance, resources=resources) as context:
            found = getattr(triggers, name)(context)
    return str(found.skip_message) if isinstance(found, dg.SkipReason) else list(found)


def only(found: list[dg.RunRequest] | str) -> dg.RunRequest:
    assert isinstance(found, list), found
    (request,) = found
    return request


def test_from_a_delivery_to_the_retraining_that_a_takedown_asks_for(factory: Works) -> None:
    works, hands = factory, factory.hands

    # Nothing was ever delivered, then the first delivery is.
    assert tick(works, "nightly_curation") == "all 0 deliveries are filtered as the filters are now"
    assert "nothing to train on" in str(tick(works, "weekly_retraining"))
    works.deliver("spring", range(20))
    works.launch(only(tick(works, "nightly_curation")))
    assert tick(works, "nightly_curation") == "all 1 deliveries are filtered as the filters are now"

    # The first training is the week's.
    assert "no model was made yet" in str(tick(works, "early_retraining"))
    request = only(tick(works, "weekly_retraining"))
    assert request.tags["backdrop.reason"].startswith("not made yet: autoencoder, distilled_model")
    run = works.launch(request)
    assert works.instance.get_run_by_id(run).tags["backdrop.reason"] == request.tags["backdrop.reason"]  # type: ignore[union-attr]
    works.crown("1")
    assert "nothing has changed" in str(tick(works, "weekly_retraining"))
    assert "0 % new images (0 beside 20)" in str(tick(works, "early_retraining"))
    first = {asset: works.shown(asset) for asset in ("autoencoder", "pretrained_dit", "inpainting_finetune")}
    assert "it was not made before" in first["pretrained_dit"]["why"]

    # One image more, 5 %: the pretrained models stay and keep their data version, what follows is made again.
    works.deliver("april", range(20, 21))
    works.launch(only(tick(works, "nightly_curation")))
    assert "5 % new images (1 beside 20)" in str(tick(works, "early_retraining"))
    hands.ran.clear()
    request = only(tick(works, "weekly_retraining"))
    works.launch(request)
    newest = str(works.shown("training_set")["dataset_version"])
    for asset in ("autoencoder", "pretrained_dit"):
        shown = works.shown(asset)
        assert shown["data_version"] == first[asset]["data_version"]
        assert "5 % new images (1 beside 20), below 20 %" in shown["why"]
    assert works.shown("inpainting_finetune")["data_version"] != first["inpainting_finetune"]["data_version"]
    assert hands.ran == [("latents", newest), ("finetune", newest), ("distil", newest)]

    # Six more, 35 % in all: the retraining does not wait for Saturday, and everything adopts.
    works.deliver("may", range(21, 27))
    works.launch(only(tick(works, "nightly_curation")))
    request = only(tick(works, "early_retraining"))
    assert request.tags["backdrop.reason"] == "35 % new images (7 beside 20) since the champion, version 1"
    hands.ran.clear()
    works.launch(request)
    shown = works.shown("pretrained_dit")
    assert shown["data_version"] != first["pretrained_dit"]["data_version"]
    assert "adopts" in shown["why"]
    assert [verb for verb, _ in hands.ran] == ["autoencoder", "latents", "pretrain", "finetune", "distil"]
    # Its engine has not become champion; that alone is no reason to make it again.
    assert "the newest models have learned that already" in str(tick(works, "early_retraining"))
    works.crown("2")

    # A takedown: the models that stand saw the image, so a retraining on the clean dataset version is asked for.
    order = works.line.catalog.order_takedown("target", "asked to", [image_id(3)])
    assert "a takedown was interrupted (target)" in str(tick(works, "early_retraining"))
    Takedown(works.line.store, works.line.catalog, works.line.settings.state, order, [image_id(3)]).run()
    works.line.catalog.finish_takedown(order.id, {})
    request = only(tick(works, "early_retraining"))
    assert "takedown 1: asked to" in request.tags["backdrop.reason"]
    assert "pretrained_dit" in request.tags["backdrop.reason"]
    works.launch(request)
    clean = works.shown("pretrained_dit")
    assert "withdrawn (takedown 1: asked to)" in clean["why"]
    assert works.line.catalog.withdrawn(str(clean["dataset_version"])) is None
    rest = str(tick(works, "early_retraining"))
    assert "the champion, version 2, is tainted (takedown 1: asked to); the newest models are clean" in rest
    works.crown("3")
    assert "tainted" not in str(tick(works, "early_retraining"))


def test_a_failed_retraining_is_not_asked_for_in_a_loop_and_a_budget_pauses(
    factory: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, hands = factory, factory.hands
    works.deliver("june", range(30, 50))
    hands.drifting.add("june")
    works.launch(only(tick(works, "nightly_curation")))
    request = only(tick(works, "early_retraining"))
    assert "june differs from the deliveries before it (resolution)" in request.tags["backdrop.reason"]

    monkeypatch.setenv("BACKDROP_GPU_HOURS_PER_WEEK", "2")
    for name in ("early_retraining", "weekly_retraining"):
        said = str(tick(works, name, Line()))
        assert "GPU-hours were spent in the last seven days, and 2 are allowed; it goes on at" in said
    monkeypatch.delenv("BACKDROP_GPU_HOURS_PER_WEEK")

    hands.broken = "finetune"
    works.launch(request, fails=True)
    said = str(tick(works, "early_retraining"))
    assert "failed, last" in said
    assert "it is tried again from" in said
    hands.broken = ""
    # A person does it by hand: nothing is left to ask for.
    works.launch(dg.RunRequest(job_name="retrain"))
    assert not isinstance(tick(works, "early_retraining"), list)


def test_the_dry_run_says_the_same(factory: Works, capsys: pytest.CaptureFixture[str]) -> None:
    import io
    import json

    from rich.console import Console

    from infra.settings import Settings
    from orchestration.planning import show_plan
    from orchestration.screen import plain

    works = factory
    works.deliver("july", range(60, 62))
    request = only(tick(works, "nightly_curation"))
    page = io.StringIO()
    answer = show_plan(Settings.load(), Console(file=page, width=200))
    assert "nightly_curation  would start 1" in page.getvalue()
    assert request.tags["backdrop.reason"] in page.getvalue()
    answer = json.loads(json.dumps(plain(answer)))
    assert [one["automation"] for one in answer["automations"]] == [
        "nightly_curation",
        "weekly_retraining",
        "early_retraining",
    ]
    assert answer["automations"][0]["requests"] == [
        {"job": "ingest", "partition": "july", "reason": "july: the delivery is new"}
    ]
    assert answer["automations"][2]["why"] == tick(works, "early_retraining")


def test_the_champions_page_says_at_once_that_it_is_tainted(factory: Works) -> None:
    from deploy.registry import Registry
    from infra.bundles import write_bundle
    from orchestration.taint import show_champion

    works = factory
    assert show_champion(works.line), "there is no champion in the registry yet"
    registry = Registry(works.line.tracking.uri)
    bundle = write_bundle(works.line.store, "engines", "engine", {"trunk.onnx": b"1"}, {})
    registry.set_alias(ENGINE, "champion", registry.register(ENGINE, bundle))
    assert show_champion(works.line)
    registry.taint(ENGINE, bundle, "takedown 7: asked to")
    assert not show_champion(works.line)

    key = dg.AssetCheckKey(dg.AssetKey("promotion"), "champion_clean")
    record = works.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    verdict = record.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert not verdict.passed
    observed = works.instance.fetch_observations(dg.AssetKey("promotion"), limit=1).records[0].asset_observation
    assert observed is not None
    assert observed.metadata["tainted"].value == "takedown 7: asked to"
