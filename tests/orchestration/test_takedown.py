"""`backdrop takedown`, `trace` and `quarantine` on real services: the tables they print and what they leave behind."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from infra.bundles import write_bundle
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.settings import Settings
from tests.assets.workshop import DELIVERY, Workshop, image_id, traces_of, with_exif
from training.personalise.subject import record_subject

pytestmark = pytest.mark.integration
NAME = "backdrop-pretrained-dit"


def test_from_the_order_to_the_new_training_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.line import Line
    from assets.stage import latest_metadata
    from deploy.registry import TAINT_TAG, Registry
    from infra.database import remove_postgres
    from orchestration import trace
    from orchestration.services import services
    from orchestration.takedown import take_down

    for name in [name for name in os.environ if name.startswith("BACKDROP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("BACKDROP_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("BACKDROP_PRESET", "tiny")
    page = io.StringIO()
    console = Console(file=page, width=250)

    def said() -> str:
        page.seek(0)
        text = page.read()
        page.seek(0)
        page.truncate()
        return text

    before = dict(os.environ)
    try:
        with services(Settings.load(), console) as environment:
            os.environ.update(environment)
            line, settings = Line(), Settings.load()
            shop = Workshop(tmp_path, line.catalog)
            shop.fill()
            version = shop.version().version
            bundle = write_bundle(shop.store, "models/x", "dit", {"weights": b"w"}, {"dataset": version})
            line.catalog.record_model(bundle, "pretrained_dit", "v", version)
            registry = Registry(line.tracking.uri)
            number = registry.register(NAME, bundle)
            registry.set_alias(NAME, "challenger", number)

            trace.trace_image(settings, console, str(shop.folder / "theirs" / "03.jpg"))
            found = said()
            assert all(
                part in found for part in (image_id(3), "theirs/03.jpg", "size", "shard.00000.mds", version, bundle)
            )
            trace.trace_model(settings, console, f"{NAME}@challenger", tmp_path / "images.jsonl")
            assert "shop" in said()
            listed = [json.loads(row) for row in (tmp_path / "images.jsonl").read_text().splitlines()]
            assert {row["image_id"] for row in listed} == {image_id(k) for k in range(10)}
            with pytest.raises(BackdropError, match="no alias 'champion'") as missing:
                trace.trace_model(settings, console, f"{NAME}@champion", None)
            assert "challenger" in missing.value.remedy

            line.store.put(f"stages/filtered_shards/{DELIVERY}/v/result.json", b"{}")
            trace.quarantine(settings, console, DELIVERY, retry=False)
            assert "corrupt" in said()
            assert line.store.exists(f"stages/filtered_shards/{DELIVERY}/v/result.json")
            trace.quarantine(settings, console, None, retry=True)
            assert f"materialise filtered_shards[{DELIVERY}]" in said()
            assert not line.store.exists(f"stages/filtered_shards/{DELIVERY}/v/result.json")

            take_down(settings, console, image_id(3), "asked to", dry_run=True)
            assert "nothing was changed" in said()
            assert line.catalog.taken_down() == set()
            take_down(settings, console, image_id(3), "asked to", dry_run=False)
            found = said()
            assert "takedown 1 is carried out" in found
            assert f"tainted    {NAME} version {number}" in found
            assert "theirs/03.jpg" in found
            assert traces_of(tmp_path, 3) == ["theirs/03.jpg"]  # in the databases' files neither
            tags = registry._client().get_model_version(NAME, number).tags
            assert tags[TAINT_TAG] == "takedown 1: asked to"

            import dagster as dg

            with dg.DagsterInstance.get() as instance:
                made = latest_metadata(instance, "training_set")
            assert made is not None
            assert made["dataset_version"] != version
            assert made["images"] == 9
            trace.trace_image(settings, console, image_id(3))
            assert "taken down" in said()

            given = sha256_bytes(with_exif(20))
            subject = record_subject(line.store, "mug", "mug", {"a.jpg": with_exif(20)}, line.catalog.taken_down)
            taught = {"photographs": subject.image_ids}
            mug = write_bundle(line.store, "stages/mug", "personalised", {"subject.json": b"{}"}, taught)
            line.catalog.record_model(mug, "personalized_model", "v", made["dataset_version"])
            registry.register("backdrop-personalized-model", mug)
            trace.trace_image(settings, console, given)
            found = said()
            assert mug in found
            assert "a photograph of mug" in found
            take_down(settings, console, given, "his face", dry_run=False)
            found = said()
            assert "subject    mug has lost photographs" in found
            assert "tainted    backdrop-personalized-model version 1" in found
            assert "training_set stays as it is" in found
            assert traces_of(tmp_path, 20) == []
    finally:
        remove_postgres(tmp_path / "state")
        os.environ.clear()
        os.environ.update(before)
