"""What decides whether an asset is made again: its data version, its pin, and the commit marker of its result."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from assets import data_job
from assets.data_job import materialize
from assets.deliveries import delivery_name, sample_delivery
from assets.line import Line
from assets.stage import Stage, committed, latest_metadata, output_prefix, present, upstream_of
from assets.training_job import chosen_section
from assets.versions import data_version
from infra.catalog import SightingRow
from infra.errors import BackdropError
from infra.jobs.spec import Check, JobResult, JobSpec
from training.presets import load_preset


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    return Line()


def report(instance: dg.DagsterInstance, asset: str, **metadata: str) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=metadata))


def test_the_version_follows_inputs_and_configuration() -> None:
    def version(**changed: object) -> str:
        return data_version("training.flow", upstream={"training_set": "a"}, config={"steps": 1, **changed})

    assert version() == version()
    assert version(steps=2) != version()
    assert data_version("training.flow", upstream={"training_set": "b"}, config={"steps": 1}) != version()
    assert data_version("training.masks", upstream={"training_set": "a"}, config={"steps": 1}) != version()


def test_a_result_counts_once_its_marker_stands(line: Line) -> None:
    prefix = output_prefix("autoencoder", "0123456789abcdef", None)
    line.store.put(f"{prefix}/model.safetensors", b"half")
    assert committed(line, prefix) is None
    line.store.put(f"{prefix}/result.json", JobResult(data={"model": "m"}).model_dump_json().encode())
    found = committed(line, prefix)
    assert found is not None
    assert found.data == {"model": "m"}


class Lender:
    """A launcher that lends three processes; a job's result is written where its spec says, and `pack` fails once."""

    slices = 3

    def __init__(self, line: Line) -> None:
        self._line, self.ran, self.broken = line, list[tuple[str, int | None]](), True

    def run(self, *, verb: str, spec: JobSpec, slices: int | None = None, **_: object) -> JobResult:
        self.ran.append((verb, slices))
        if verb == "pack" and self.broken:
            raise BackdropError("the node went")
        result = JobResult(data={"by": verb})
        self._line.store.put(f"{spec.output}/result.json", result.model_dump_json().encode())
        return result


def test_what_prepares_a_result_is_not_taken_for_it(line: Line) -> None:
    stage = Stage("filtered_shards", "assets.curation", "filter", "assets.curation.filter", {}, {})
    lender = Lender(line)
    line.__dict__["launcher"] = lender
    shared = {"scan": True, "decide": False, "pack": True}

    @dg.asset(name="filtered_shards")
    def made(context):  # type: ignore[no-untyped-def]
        return materialize(context, line, stage, lambda output: JobSpec(store=line.store.uri, output=output), shared)

    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(BackdropError, match="the node went"):
            dg.materialize([made], instance=instance)
        assert committed(line, output_prefix("filtered_shards", stage.version, None)) is None
        lender.broken = False
        dg.materialize([made], instance=instance)
    assert lender.ran[-4:] == [("scan", 3), ("decide", None), ("pack", 3), ("filter", None)]
    found = committed(line, output_prefix("filtered_shards", stage.version, None))
    assert found is not None
    assert found.data == {"by": "filter"}


def test_without_mlflow_a_data_asset_is_made_all_the_same(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_job, "PATIENCE_S", 0.1)
    line.__dict__["settings"] = line.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    line.__dict__["launcher"] = Lender(line)
    stage = Stage("raw_images", "assets.curation", "ingest", "assets.curation.ingest", {}, {})

    @dg.asset(name="raw_images")
    def made(context):  # type: ignore[no-untyped-def]
        return materialize(context, line, stage, lambda output: JobSpec(store=line.store.uri, output=output))

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([made], instance=instance).success
        said = latest_metadata(instance, "raw_images")
    assert said is not None
    assert said["data_version"] == stage.version
    assert "MLflow run" not in said


def test_an_input_that_is_missing_or_gone_is_named(line: Line) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_asset_context(instance=instance)
        with pytest.raises(BackdropError, match="autoencoder has not been materialised"):
            upstream_of(context, line, "autoencoder")
        report(instance, "autoencoder", data_version="v", result="stages/autoencoder/v/result.json")
        with pytest.raises(BackdropError, match="is gone from the object store"):
            upstream_of(context, line, "autoencoder")
        line.store.put("stages/autoencoder/v/result.json", JobResult(data={"model": "m"}).model_dump_json().encode())
        assert upstream_of(context, line, "autoencoder").result.data["model"] == "m"


def test_pictures_of_delivered_images_are_links_and_registered(
    line: Line, monkeypatch: pytest.MonkeyPatch, catalog_url: str
) -> None:
    """A chart and a rendered picture travel in Dagster's event; one of somebody's photograph never does."""
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    for name, kind in {"sample-tiny": "sample", "theirs": "pictures"}.items():
        line.catalog.add_delivery(name, f"file:///{name}", kind)
        line.catalog.ingest(name, [SightingRow(uri=f"file:///{name}/{k}") for k in range(2)])
    photograph, rendered, both, unknown = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
    places = {"sample-tiny": [rendered, both], "theirs": [photograph, both]}
    with line.catalog.engine.begin() as connection:
        for name, ids in places.items():
            for k, image_id in enumerate(ids):
                values = {"id": image_id, "uri": f"file:///{name}/{k}"}
                connection.execute(text("UPDATE sightings SET image_id = :id WHERE uri = :uri"), values)
    shows = {"Loss": [], "Rendered": [rendered], "Mixed": [rendered, photograph], "Met in both": [both]}
    shows |= {"Unknown": [unknown], "Gone": [photograph]}
    for title in shows:
        line.store.put(f"out/{title}.png", b"picture")
    line.store.delete("out/Gone.png")
    result = JobResult(
        pictures={title: f"out/{title}.png" for title in shows},
        shows={f"out/{title}.png": ids for title, ids in shows.items()},
        checks=[Check(name="size", passed=False, pictures={title: f"out/{title}.png" for title in shows})],
    )
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_asset_context(instance=instance)
        page = present(context, line, "v", "out/result.json", result, reused=False)
    metadata, (check,) = page.metadata, page.check_results
    assert metadata is not None
    assert check.metadata == {title: metadata[title] for title in shows}
    inline = {title for title in shows if "data:image" in str(metadata[title].value)}  # type: ignore[union-attr]
    assert inline == {"Loss", "Rendered"}
    assert str(metadata["Mixed"].value).endswith("/out/Mixed.png")  # type: ignore[union-attr]
    assert metadata["Gone"].value == "taken down"  # type: ignore[union-attr]
    assert line.catalog.held([photograph]).pictures == ["out/Mixed.png"]
    assert line.catalog.held([rendered]).pictures == ["out/Mixed.png", "out/Rendered.png"]


def test_an_override_that_does_not_exist_names_the_nearest() -> None:
    preset = load_preset("tiny")
    assert chosen_section(preset, "pretrain", {"steps": 3}).model_dump()["steps"] == 3
    with pytest.raises(BackdropError, match="steps"):
        chosen_section(preset, "pretrain", {"stepps": 3})


def test_names_of_deliveries_are_stable_and_plain() -> None:
    assert delivery_name("s3://bucket/My Shop/Lamps/") == delivery_name("s3://bucket/My Shop/Lamps/")
    assert delivery_name("s3://bucket/a/lamps") != delivery_name("s3://bucket/b/lamps")
    assert delivery_name("file:///Ünïcode%20Lamps").isascii()
    name, uri = sample_delivery(load_preset("tiny"))
    assert name == "sample-tiny"
    assert uri.startswith("sample://tiny?")
