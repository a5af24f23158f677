"""Which dataset version a stage is made on: the policy as a table, and what catalog and instance know for it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.adoption import Pin, Policy, adopt, choose, percent, pin_of, recipe_mark
from assets.line import Line
from assets.stage import latest_metadata
from infra.errors import BackdropError
from infra.shards import DatasetVersion, Slice
from infra.sources import source_hash
from training.specs import AutoencoderSpec

OLD, NEW = "a" * 64, "b" * 64


def pin(**values: object) -> Pin:
    return Pin(**{"asset": "pretrained_dit", "newest": NEW, "pinned": OLD, "seen": 1000, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "known", "version", "why"),
    [
        ("share", pin(new=40), OLD, "stays with aaaaaaaaaaaa: 4 % new images (40 beside 1,000), below 20 %"),
        ("share", pin(new=199), OLD, "19.9 % new images"),
        ("share", pin(new=200), NEW, "adopts bbbbbbbbbbbb: 20 % new images (200 beside 1,000)"),
        ("share", pin(new=0), OLD, "0 % new images"),
        ("share", pin(new=1, seen=0), NEW, "held none"),
        ("share", pin(new=0, pinned=None), NEW, "it was not made before"),
        ("share", pin(new=0, pinned=NEW), NEW, "is on the newest dataset version"),
        ("share", pin(new=1, asked=True), NEW, "it was asked to"),
        ("share", pin(new=1, changed=True), NEW, "its code, its configuration or a model before it has changed"),
        ("share", pin(withdrawn="takedown 3: asked to"), NEW, "was withdrawn (takedown 3: asked to)"),
        ("share", pin(new=1, asset="inpainting_finetune"), NEW, "it always takes the newest"),
        ("all", pin(new=1), NEW, "BACKDROP_ADOPT=all"),
        ("pinned", pin(new=900), OLD, "BACKDROP_ADOPT=pinned adopts on request only"),
        ("pinned", pin(new=900, asked=True), NEW, "it was asked to"),
        ("pinned", pin(new=900, changed=True), NEW, "has changed"),
        ("pinned", pin(withdrawn="takedown 3: asked to"), NEW, "was withdrawn"),
    ],
)
def test_the_policy(mode: str, known: Pin, version: str, why: str) -> None:
    found = choose(known, Policy(mode, 0.2))
    assert found.version == version
    assert why in found.why


def test_a_share_is_never_rounded_up_to_the_limit() -> None:
    assert [percent(x) for x in (0.2, 0.19999, 0.041, 1.5, 0.0, 0.07)] == [
        "20 %",
        "19.9 %",
        "4.1 %",
        "150 %",
        "0 %",
        "7 %",
    ]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog_url: str) -> Line:
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    monkeypatch.setenv("BACKDROP_PRESET", "tiny")
    return Line()


def grown(line: Line, version: str, numbers: range, *slices: Slice) -> Slice:
    """A dataset version of these slices and one more, which holds the images `numbers`."""
    piece = Slice(f"{version}-{numbers.start}", f"filtered/{version}", len(numbers))
    line.catalog.add_delivery("spring", "file:///spring", "pictures")
    members = [(f"{number:064x}", "shard.00000.mds", number) for number in numbers]
    line.catalog.stage_slice("spring", piece, f"chunk {piece.id}", members)
    pieces = (*slices, piece)
    line.catalog.add_dataset_version(DatasetVersion(version, pieces, sum(one.samples for one in pieces)))
    return piece


def made(instance: dg.DagsterInstance, asset: str, dataset: str) -> None:
    metadata = {"dataset_version": dataset}
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))


@pytest.mark.integration
def test_new_images_are_counted_and_moved_ones_are_not(line: Line) -> None:
    first = grown(line, OLD, range(100))
    # The same images again in a slice that was cut elsewhere, and ten more.
    grown(line, NEW, range(50, 110))
    with dg.DagsterInstance.ephemeral() as instance:
        made(instance, "pretrained_dit", OLD)
        found = pin_of(instance, line, "pretrained_dit", NEW)
        assert (found.seen, found.new, found.withdrawn) == (100, 10, None)
        assert pin_of(instance, line, "autoencoder", NEW) == Pin("autoencoder", NEW)
    assert line.catalog.growth(OLD, [first]).new == 0


@pytest.mark.integration
def test_a_stage_stays_adopts_when_asked_and_flees_a_withdrawn_version(line: Line) -> None:
    first = grown(line, OLD, range(100))
    grown(line, NEW, range(100, 105), first)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_asset_context(instance=instance)
        made(instance, "pretrained_dit", OLD)
        assert adopt(context, line, "pretrained_dit", NEW).version == OLD
        assert adopt(context, line, "pretrained_dit", NEW, asked=True).version == NEW
        assert adopt(context, line, "pretrained_dit", NEW, made_on=lambda _: False).version == NEW
        assert adopt(context, line, "inpainting_finetune", NEW).version == NEW
        assert latest_metadata(instance, "nobody") is None
        clean = Slice("clean", "filtered/clean", 104)
        line.catalog.add_dataset_version(DatasetVersion("c" * 64, (clean,), 104))
        line.catalog.order_takedown("target", "asked to", [f"{7:064x}"])
        found = adopt(context, line, "pretrained_dit", "c" * 64)
        assert found.version == "c" * 64
        assert "withdrawn (takedown 1: asked to)" in found.why
        with pytest.raises(BackdropError, match="takedown 1: asked to") as refused:
            adopt(context, line, "pretrained_dit", NEW)
        assert "materialise training_set" in refused.value.remedy


def test_what_a_stage_is_made_with_has_a_mark(line: Line) -> None:
    section = line.preset.autoencoder

    def mark(**changed: object) -> str:
        return recipe_mark(line, "training.flow", section.model_copy(update=changed), AutoencoderSpec)

    assert mark() == mark()
    assert mark(steps=section.steps + 1) != mark()
    assert mark(save_seconds=1.0) == mark(), "how often it saves does not make another model"
    other = recipe_mark(line, "training.flow", section, AutoencoderSpec, lambda name: source_hash(name) + "changed")
    assert other != mark()
