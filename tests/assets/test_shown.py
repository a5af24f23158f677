"""What the pages of the assets say: words, numbers under stable names, and pictures of failures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from assets import shown, tracked
from assets.about import ABOUT
from assets.check_words import WORDS, asks, in_words
from assets.line import Line
from assets.stage import Hosted, present
from deploy.checks import judge
from deploy.expansion import Expansions
from infra.images import encode_png
from infra.jobs.spec import Check, JobResult
from training.presets import load_preset

# Kinds of which Dagster's page has an icon.
ICONS = {"postgres", "dataset", "greatexpectations", "pytorch", "mlflow", "report", "file"}
FIT: dict[str, Any] = {
    "steps": 6, "seconds": 10.0, "images_per_second": 12.0, "final_loss": 1.5, "trained_parameters": 9, "device": "cpu",
}  # fmt: skip


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    return Line()


def shown_on_page(line: Line, asset: str, result: JobResult, **more: Any) -> dg.MaterializeResult:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_asset_context(instance=instance)
        return present(context, line, "v", f"stages/{asset}/v/result.json", result, reused=False, **more)


def test_every_asset_says_what_it_is_and_whose() -> None:
    from orchestration.definitions import LINEAGE

    specs = [spec for asset in LINEAGE for spec in asset.specs]
    assert [spec.key.to_user_string() for spec in specs] == list(ABOUT) == list(shown.NUMBERS)
    for spec in specs:
        assert spec.description
        assert all(f"**{head}:**" in spec.description for head in ("Made from", "Look at", "A bad value"))
        assert spec.owners
        assert spec.group_name in {"data", "training", "shipping", "personal"}
        assert spec.kinds
        assert spec.kinds <= ICONS
    checks = [check for asset in LINEAGE for check in asset.check_specs]
    assert WORDS.keys() <= {check.name for check in checks}
    assert all(check.description for check in checks)
    assert all(check.description == asks(check.name) for check in checks if check.name in WORDS)


def test_a_training_has_the_same_numbers_in_one_pass_and_in_three(line: Line) -> None:
    three = {
        f"{name}_{key}": value for name in ("random-masks", "product-masks", "curated") for key, value in FIT.items()
    }
    three["curated_final_loss"] = 1.25
    one = shown_on_page(line, "pretrained_dit", JobResult(metadata=FIT)).metadata or {}
    many = shown_on_page(line, "inpainting_finetune", JobResult(metadata=three)).metadata or {}
    for metadata, loss, seconds in ((one, 1.5, 10.0), (many, 1.25, 30.0)):
        numbers = {name: value for name, value in metadata.items() if name in shown.NUMBERS["pretrained_dit"]}
        assert numbers == {"loss": loss, "images_per_second": 12.0, "seconds": seconds}
        assert all(type(value) in (int, float) for value in numbers.values())
        for name in ("mfu", "joules", "gpu_seconds", "gpu_cost"):
            assert f"{name}: " in str(metadata["not measured"])
    assert not [name for name in many if name.startswith("random-masks_")]
    table = many["passes"]
    assert isinstance(table, dg.MarkdownMetadataValue)
    assert "| random-masks | 6 | 1.5 | 12 | 10 | 9 |" in table.value


def test_what_a_gpu_and_a_cluster_measure_is_added_up() -> None:
    metadata = {f"{name}_{key}": value for name in "ab" for key, value in {**FIT, "mfu": 0.4, "joules": 50.0}.items()}
    known = shown.numbers("inpainting_finetune", JobResult(metadata=metadata), {"gpu_seconds": 9.0, "gpu_cost": 0.5})
    assert (known["mfu"], known["joules"], known["gpu_seconds"], known["gpu_cost"]) == (0.4, 100.0, 9.0, 0.5)
    assert shown.unmeasured("inpainting_finetune", known, JobResult()) == ""


def test_a_loss_that_is_no_number_is_not_plotted(line: Line) -> None:
    metadata = shown_on_page(line, "pretrained_dit", JobResult(metadata={**FIT, "final_loss": float("nan")})).metadata
    assert metadata is not None
    assert "loss" not in metadata
    assert "loss: nothing was trained, or the loss was not finite" in str(metadata["not measured"])


def test_a_second_decoder_does_not_hide_the_autoencoders_loss() -> None:
    second = {f"masked_decoder_{key}": value for key, value in {**FIT, "final_loss": 9.0}.items()}
    known = shown.numbers("autoencoder", JobResult(metadata={**FIT, **second, "psnr_db": 30.0}), {})
    assert (known["loss"], known["seconds"], known["psnr_db"]) == (1.5, 20.0, 30.0)


def test_data_assets_count_rows() -> None:
    funnel = [{"filter": "size", "dropped": 3, "left": 7}]
    filtered = JobResult(
        metadata={"files": 10, "kept": 7, "quarantined": 0, "seconds": 1.0, "images_per_second": 10.0},
        data={"funnel": funnel},
    )
    known = shown.numbers("filtered_shards", filtered, {})
    assert tuple(known) == shown.NUMBERS["filtered_shards"]
    assert (known["images_kept"], known["images_dropped"], known["share_kept"], known[shown.ROWS]) == (7, 3, 0.7, 7)
    assert "| size | 3 | 7 |" in shown.table_of_funnel(funnel)
    assert len(shown.table_of_funnel(funnel * 20)) < 1_000  # beyond that Dagster hides it behind a click
    empty = JobResult(metadata={**filtered.metadata, "files": 0, "kept": 0})
    assert "share_kept: the delivery is empty" in shown.unmeasured(
        "filtered_shards", shown.numbers("filtered_shards", empty, {}), empty
    )


def test_an_evaluation_says_what_it_could_not_measure() -> None:
    metrics = {
        "judged": {"adherence": {"mean": 0.5}}, "product_identity": 1.0, "latency_ms": {"batch 4": {"p50": 9, "p95": 9},
        "batch 1": {"p50": 2.0, "p95": 3.0}, "caption": {"p50": 1.0, "p95": 1.0}},
        "energy": {"joules": None, "source": "not measured: no counter"}, "expansion": {"note": "no segmenter"},
    }  # fmt: skip
    result = JobResult(data={"metrics": metrics}, checks=[Check(name="wall_colour", passed=False)])
    known = shown.numbers("evaluation_report", result, {})
    assert (known["latency_p50_ms"], known["latency_p95_ms"]) == (2.0, 3.0)
    assert (known["adherence"], known["checks_failed"]) == (0.5, 1)
    why = shown.unmeasured("evaluation_report", known, result)
    assert "expansion: no segmenter" in why
    assert "joules_per_image: no counter" in why


def test_every_check_of_the_engine_says_what_the_bar_was() -> None:
    section = load_preset("tiny").evaluate
    ours = {"wall_colour": 0.5, "floor_colour": 1.0, "floor_line": 1.0, "shadow_side": 1.0, "masked_l1": 0.2}
    means = {"engine": ours, "teacher": ours, "Telea": {"masked_l1": 0.3}}
    parity = {"graph": "trunk", "shape": "1", "relative_l2": 1e-7, "tolerance": 1e-5}
    node = {"graph": "t", "node": "n", "operator": "Mul", "shape": "1", "error": 1e-6, "kind": "L2", "tolerance": 1e-4}
    manifest = {"parity": [parity], "nodes": {"worst": [node], "passed": True, "judged_absolutely": []}}
    checks = judge(means, 1.0, {}, manifest, Expansions(why="no segmenter"), section)
    said = {check.name: in_words(check) for check in checks}
    assert all(said.values())
    assert said["wall_colour"] == f"50% of the held-out pictures do; at least {section.colour_bar:.0%} must."
    assert "0.3 (Telea)" in said["beats_baselines"]
    assert said["object_expansion"] == "Not measured: no segmenter."


def test_a_check_carries_the_pictures_that_belong_to_it(line: Line) -> None:
    for name in ("all", "walls"):
        line.store.put(f"out/{name}.png", encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    numbers, own = {"share": 0.25, "bar": 0.9}, "Failures of wall_colour"
    result = JobResult(
        pictures={"Known failures": "out/all.png"},
        checks=[
            Check(
                name="wall_colour", passed=False, metadata={**numbers, "failing": 90}, pictures={own: "out/walls.png"}
            ),
            Check(name="floor_colour", passed=True, metadata={**numbers, "failing": 0}),
            Check(name="gate", passed=False, metadata={"reason": "worse"}, pictures={"Known failures": "out/all.png"}),
        ],
    )
    page = shown_on_page(line, "evaluation_report", result)
    walls, floors, gate = page.check_results
    assert "data:image/png;base64," in str(walls.metadata[own].value)
    assert walls.description == (
        "25% of the held-out pictures do; at least 90% must. The picture shows 8 of the 90 that fail."
    )
    assert str(floors.description).endswith("No example fails, so there is no picture.")
    shown_by = [[name for name in one.metadata if name in (own, "Known failures")] for one in page.check_results]
    assert shown_by == [[own], [], ["Known failures"]]
    assert gate.description == "worse"
    assert own not in (page.metadata or {})
    assert "Known failures" in (page.metadata or {})

    hosted = {own: Hosted("http://here/small.png", "http://here/page")}
    walls, *_ = shown_on_page(line, "evaluation_report", result, hosted=hosted).check_results
    assert f"[![{own}](http://here/small.png)](http://here/page)" in str(walls.description)


def test_a_page_tells_where_the_log_and_the_report_lie(line: Line) -> None:
    result = JobResult(files={"curve": "out/curve.json", "report": "out/report.html"})
    metadata = shown_on_page(line, "pretrained_dit", result, log="/jobs/one/log.txt", links={"MLflow run": "http://m"})
    names = list(metadata.metadata or {})
    assert names.index("MLflow run") < names.index("file: report") < names.index("file: curve")
    assert (metadata.metadata or {})["job log"] == dg.MetadataValue.path("/jobs/one/log.txt")


def test_metrics_have_the_same_names_in_every_stage() -> None:
    assert tracked.by_pass({"pretrain/loss": 1.0, "pretrain/mfu": 0.5}, "pretrain") == {"": {"loss": 1.0, "mfu": 0.5}}
    assert tracked.by_pass({"product-masks/loss": 1.0}, "finetune") == {"product-masks": {"loss": 1.0}}
    assert tracked.by_pass({"wall_colour": 1.0}, "evaluate") == {"": {"wall_colour": 1.0}}


@pytest.mark.parametrize(("size", "expected"), [((2000, 880), (320, 300)), ((30, 880), (30, 300)), ((9, 9), (9, 9))])
def test_pictures_are_small_on_a_page(size: tuple[int, int], expected: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (size[0], size[1] * (1 if size[0] < 320 else 5)), (0, 0, 0, 0)).save(file, "PNG")
    with Image.open(io.BytesIO(tracked.small(file.getvalue()))) as picture:
        assert picture.size == expected
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
