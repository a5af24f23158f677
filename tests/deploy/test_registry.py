"""The registry on a real MLflow store: idempotent registration, aliases, and downloads through `backdrop://`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.registry import REGISTERED_NAMES, Registry, bundle_of, source_of
from infra.bundles import open_bundle, write_bundle
from infra.errors import BackdropError, ServiceError
from infra.object_store import open_store

NAME = REGISTERED_NAMES["tensorrt_engine"]


def test_sources_round_trip() -> None:
    bundle = "0f" * 32
    assert bundle_of(source_of(bundle)) == bundle
    for bad in ("backdrop://short", "file:///tmp/x", "backdrop:" + bundle, source_of("zz" * 32)):
        with pytest.raises(BackdropError, match="names no bundle"):
            bundle_of(bad)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/registry.db")


def test_the_same_bundle_is_one_version(registry: Registry) -> None:
    first = registry.register(NAME, "1a" * 32, tags={"backdrop.asset": "tensorrt_engine"}, description="an engine")
    again = registry.register(NAME, "1a" * 32)
    other = registry.register(NAME, "2b" * 32)
    assert first == again != other
    assert registry.get_alias(NAME, "champion") is None


def test_a_tainted_version_names_every_takedown_once(registry: Registry) -> None:
    version = registry.register(NAME, "5d" * 32, description="the card")
    other = registry.register(NAME, "6e" * 32)
    for why in ("takedown 1: asked to", "takedown 2: licence", "takedown 1: asked to"):
        assert registry.taint(NAME, "5d" * 32, why) == [version]
    assert registry.taint(NAME, "7f" * 32, "takedown 1") == []
    tags = registry._client().get_model_version(NAME, version).tags
    assert tags["backdrop.tainted"] == "takedown 1: asked to; takedown 2: licence"
    described = registry._client().get_model_version(NAME, version).description
    assert described.count("Trained on what was taken down since") == 2
    assert described.endswith("the card")
    assert "backdrop.tainted" not in registry._client().get_model_version(NAME, other).tags
    registry.set_alias(NAME, "shown", version)
    assert registry.aliases(NAME) == {"shown": version}
    assert registry.aliases("backdrop-autoencoder") == {}
    with pytest.raises(BackdropError, match="There is no version 99"):
        registry.version(NAME, "99")


def test_what_is_made_from_a_tainted_model_is_reached_too(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from deploy.ancestry import ancestors, reached
    from infra.catalog import Model

    store = open_store(tmp_path.as_uri())
    autoencoder = write_bundle(store, "a", "autoencoder", {"f": b"a"}, {"dataset": "old"})
    store.put("latents.json", json.dumps({"autoencoder": autoencoder}).encode())
    base = write_bundle(store, "b", "dit", {"f": b"b"}, {"dataset": "old", "latents": "latents.json"})
    tuned = write_bundle(store, "c", "dit", {"f": b"c"}, {"dataset": "new", "base": base})
    engine = write_bundle(store, "d", "engine", {"f": b"d"}, {"sources": {"student": tuned}})
    alone = write_bundle(store, "e", "dit", {"f": b"e"}, {"dataset": "new"})
    versions = {autoencoder: "ancient", base: "old", tuned: "new", engine: "new", alone: "new"}
    models = [Model(id, "asset", "v", version, None, datetime.now(UTC)) for id, version in versions.items()]
    assert ancestors(store, engine) == [engine, tuned, base, autoencoder]
    assert {model.id for model in reached(store, models, {"old"})} == {base, tuned, engine}
    assert {model.id for model in reached(store, models, {"ancient"})} == {autoencoder, base, tuned, engine}


@pytest.mark.parametrize("version", ["99", "99999999999", "", "latest", "-1", "٣"])
def test_what_is_no_version_is_one_message(registry: Registry, version: str) -> None:
    with pytest.raises(BackdropError, match=f"There is no version {version} of {NAME}"):
        registry.version(NAME, version)


def test_a_server_that_does_not_answer_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("", "with a login MLflow's own client is asked"):
        if token:
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
        with pytest.raises(ServiceError, match="MLflow did not answer as it should: "):
            Registry("http://127.0.0.1:9").aliases(NAME)


def test_an_unknown_name_names_the_nearest(registry: Registry) -> None:
    with pytest.raises(BackdropError, match="Did you mean 'backdrop-engine'"):
        registry.register("backdrop-engin", "1a" * 32)


def test_an_alias_downloads_the_verified_bundle(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    from deploy.artifact_repository import BackdropArtifactRepository

    store = open_store(f"file://{tmp_path}/store")
    bundle = write_bundle(store, "engines", "engine", {"trunk.onnx": b"graph", "decoder.onnx": b"other"}, {})
    monkeypatch.setenv("BACKDROP_STORE", store.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    # What MLflow does itself with the entry point of an installed Backdrop.
    monkeypatch.setitem(_artifact_repository_registry._registry, "backdrop", BackdropArtifactRepository)
    registry.set_alias(NAME, "champion", registry.register(NAME, bundle))

    uri = f"models:/{NAME}@champion"
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "trunk.onnx": b"graph",
        "decoder.onnx": b"other",
    }

    store.put(open_bundle(store, bundle).files["trunk.onnx"].key, b"graft")
    with pytest.raises(mlflow.exceptions.MlflowException, match="not what was written"):
        mlflow.artifacts.download_artifacts(uri)
