"""What may be loaded: signed by a trusted key, known to the catalog, whole; all else is refused before it is read."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from deploy.engines import open as opening
from deploy.engines import own, plans, tensorrt
from deploy.engines.open import open_engine
from deploy.engines.plans import differences, plan_inputs, plan_key, pointer_key, read_plans, write_plans
from deploy.engines.protocol import GraphEngine
from deploy.engines.tensorrt import runtime
from deploy.engines.tensorrt.build import Built
from deploy.engines.tensorrt.layers import LayerSummary
from deploy.manifest import ENGINE, PLAN, PLAN_ASSET, CatalogRow, Trust, open_verified, sign_bundle, signature_key
from deploy.signing import Signer, open_signer
from infra.bundles import manifest_key, open_bundle, write_bundle
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.object_store import ObjectStore, open_store
from tests.deploy.conftest import World

H200 = {"tensorrt": "10.16.1", "gpu": "NVIDIA H200", "compute_capability": "9.0"}
L4 = {**H200, "gpu": "NVIDIA L4", "compute_capability": "8.9"}
META: dict[str, Any] = {
    "onnx_sha256": {"trunk.onnx": "ab"},
    "opset": 18,
    "precision": {"format": "float16"},
    "profiles": {"trunk": []},
    "tensorrt": {"refittable": False},
}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return open_signer(None, tmp_path_factory.mktemp("state"))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def engine(store: ObjectStore, signer: Signer, says: str = "v1" * 6) -> tuple[str, Trust]:
    catalog = {"asset": "tensorrt_engine", "data_version": says, "dataset_version": "d"}
    identity = write_bundle(store, "e", ENGINE, {"trunk.onnx": b"graph"}, {"catalog": catalog})
    sign_bundle(store, identity, signer)
    row = CatalogRow(asset="tensorrt_engine", data_version="v1" * 32, dataset_version="d")
    return identity, Trust(keys=(signer.public,), rows={identity: row})


def test_a_signed_engine_that_the_catalog_knows_opens(store: ObjectStore, signer: Signer) -> None:
    identity, trust = engine(store, signer)
    assert open_verified(store, identity, ENGINE, trust).read("trunk.onnx") == b"graph"
    assert Trust.model_validate_json(trust.model_dump_json()) == trust


def test_without_signature_row_or_agreement_it_does_not(store: ObjectStore, signer: Signer, tmp_path: Path) -> None:
    identity, trust = engine(store, signer)
    with pytest.raises(BackdropError, match="unknown to the catalog"):
        open_verified(store, identity, ENGINE, Trust(keys=trust.keys))
    with pytest.raises(BackdropError, match="not trusted"):
        open_verified(store, identity, ENGINE, Trust(rows=trust.rows))
    other = trust.rows[identity].model_copy(update={"dataset_version": "withdrawn"})
    with pytest.raises(BackdropError, match="dataset_version is 'withdrawn' there, 'd' here"):
        open_verified(store, identity, ENGINE, Trust(keys=trust.keys, rows={identity: other}))
    with pytest.raises(BackdropError, match="holds a engine"):
        open_verified(store, identity, PLAN, trust)
    sign_bundle(store, identity, open_signer(None, tmp_path / "stranger"))
    with pytest.raises(BackdropError, match="not trusted"):
        open_verified(store, identity, ENGINE, trust)
    store.delete(signature_key(identity))
    with pytest.raises(BackdropError, match="not signed"):
        open_verified(store, identity, ENGINE, trust)
    nameless, trust = engine(store, signer, says="")
    with pytest.raises(BackdropError, match="data_version"):
        open_verified(store, nameless, ENGINE, trust)


def test_a_file_and_its_manifest_replaced_together_are_refused(store: ObjectStore, signer: Signer) -> None:
    """Whoever can write to the store writes a whole new bundle, puts it under the old id, or hands out the new one."""
    identity, trust = engine(store, signer)
    catalog = open_bundle(store, identity).meta["catalog"]
    forged = write_bundle(store, "e", ENGINE, {"trunk.onnx": b"other graph"}, {"catalog": catalog})
    with pytest.raises(BackdropError, match="not signed"):
        open_verified(store, forged, ENGINE, trust)
    store.put(signature_key(forged), store.get(signature_key(identity)))
    with pytest.raises(BackdropError, match="is wrong"):
        open_verified(store, forged, ENGINE, trust)
    store.put(manifest_key(identity), store.get(manifest_key(forged)))
    with pytest.raises(BackdropError, match="not what was written"):
        open_verified(store, identity, ENGINE, trust)


def test_a_flipped_byte_in_any_file_that_the_loader_reads_is_refused(world: World) -> None:
    bundle = open_bundle(world.store, world.engine)
    keys = {name: file.key for name, file in bundle.files.items()}
    keys |= {"manifest": manifest_key(world.engine), "signature": signature_key(world.engine)}
    assert len(keys) == 7
    for name, key in keys.items():
        whole = world.store.get(key)
        for place in (0, len(whole) // 2, len(whole) - 1):
            world.store.put(key, flipped(whole, place))
            try:
                with pytest.raises(BackdropError, match=r"\n  → ") as refused:
                    open_engine(world.store, world.engine, world.trust)
            finally:
                world.store.put(key, whole)
            assert name in {"manifest", "signature"} or name in str(refused.value)
    open_engine(world.store, world.engine, world.trust).close()


def test_a_model_is_no_engine(world: World) -> None:
    with pytest.raises(BackdropError, match="holds a dit"):
        open_engine(world.store, world.student, world.trust)


def built(graphs: tuple[str, ...] = ("trunk",)) -> dict[str, Built]:
    return {name: Built(f"plan of {name}".encode(), b"timing", LayerSummary(3, 1, 0), 10, 1.5) for name in graphs}


def keep(store: ObjectStore, signer: Signer, environment: dict[str, str] = H200) -> tuple[str, str, Trust]:
    """What a job and the asset do: (key, bundle, trust)."""
    key, bundle = write_plans(store, plan_inputs(META, environment), built(), {"latency_ms": 3}, "d")
    sign_bundle(store, bundle, signer)
    row = CatalogRow(asset=PLAN_ASSET, data_version=key, dataset_version="d")
    return key, bundle, Trust(keys=(signer.public,), rows={bundle: row})


def test_plans_are_found_by_everything_that_made_them(store: ObjectStore, signer: Signer) -> None:
    inputs = plan_inputs(META, H200)
    assert read_plans(store, inputs, Trust(), ["trunk"]) is None
    key, bundle, trust = keep(store, signer)
    assert read_plans(store, inputs, trust, ["trunk"]) == {"trunk": b"plan of trunk"}
    manifest = open_bundle(store, bundle).meta
    assert manifest["key"] == key == plan_key(json.loads(json.dumps(inputs)))
    assert manifest["graphs"]["trunk"]["plan_sha256"] == sha256_bytes(b"plan of trunk")
    assert manifest["graphs"]["trunk"]["layers"]["fused_attention"] == 1
    changed = [
        plan_inputs({**META, name: value}, H200)
        for name, value in {"onnx_sha256": {}, "opset": 19, "precision": {}, "profiles": {}, "tensorrt": {}}.items()
    ]
    for other in (*changed, plan_inputs(META, L4), plan_inputs(META, {**H200, "tensorrt": "11.4.0"})):
        assert read_plans(store, other, trust, ["trunk"]) is None


def test_a_plan_for_another_gpu_under_our_key_is_refused(store: ObjectStore, signer: Signer) -> None:
    _, foreign, foreign_trust = keep(store, signer, L4)
    key, _, trust = keep(store, signer)
    both = Trust(keys=trust.keys, rows={**trust.rows, **foreign_trust.rows})
    store.put(pointer_key(key), json.dumps({"bundle": foreign}).encode())
    with pytest.raises(BackdropError, match=r"environment\.gpu is 'NVIDIA H200' here, 'NVIDIA L4' there"):
        read_plans(store, plan_inputs(META, H200), both, ["trunk"])
    store.put(pointer_key(key), b"{}")
    with pytest.raises(BackdropError, match="is damaged"):
        read_plans(store, plan_inputs(META, H200), both, ["trunk"])
    store.put(pointer_key(key), json.dumps({"bundle": "ab" * 32}).encode())
    with pytest.raises(BackdropError, match="not in the store"):
        read_plans(store, plan_inputs(META, H200), both, ["trunk"])


def test_a_replaced_plan_an_unknown_one_and_a_part_are_refused(store: ObjectStore, signer: Signer) -> None:
    key, bundle, trust = keep(store, signer)
    inputs = plan_inputs(META, H200)
    with pytest.raises(BackdropError, match="lack decoder"):
        read_plans(store, inputs, trust, ["decoder", "trunk"])
    with pytest.raises(BackdropError, match="unknown to the catalog"):
        read_plans(store, inputs, Trust(keys=trust.keys), ["trunk"])
    # An older build under the same key, signed and whole: the catalog knows another one.
    _, older = write_plans(store, inputs, built(("trunk", "text")), {}, "d")
    sign_bundle(store, older, signer)
    with pytest.raises(BackdropError, match="unknown to the catalog"):
        read_plans(store, inputs, trust, ["trunk"])
    store.put(pointer_key(key), json.dumps({"bundle": bundle}).encode())
    file = open_bundle(store, bundle).files["trunk.plan"].key
    for target in (file, manifest_key(bundle), signature_key(bundle), pointer_key(key)):
        whole = store.get(target)
        store.put(target, flipped(whole, len(whole) // 2))
        with pytest.raises(BackdropError):
            read_plans(store, inputs, trust, ["trunk"])
        store.put(target, whole)
    assert read_plans(store, inputs, trust, ["trunk"]) == {"trunk": b"plan of trunk"}


def test_differences_name_the_place() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == []
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}, "d": 0}) == [
        "a.b is 1 here, 2 there",
        "d is None here, 0 there",
    ]


class Planned:
    """Runs where a plan would."""

    made: list[bytes] = []  # noqa: RUF012 - emptied by the fixture below

    def __init__(self, name: str, plan: bytes) -> None:
        self.made.append(plan)

    def close(self) -> None:
        pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[bytes]]:
    """A machine with TensorRT, as far as `open_engine` can tell; what was deserialised."""
    monkeypatch.setattr(tensorrt, "available", lambda: None)
    monkeypatch.setattr(tensorrt, "environment", lambda: dict(H200))
    monkeypatch.setattr(runtime, "TrtGraph", Planned)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Planned.made.clear()
    yield Planned.made
    Planned.made.clear()


def kept(world: World, signer: Signer) -> tuple[str, Trust]:
    graphs = ("decoder", "encoder", "text", "trunk")
    inputs = plan_inputs(open_bundle(world.store, world.engine).meta, H200)
    key, bundle = write_plans(world.store, inputs, built(graphs), {}, world.dataset)
    sign_bundle(world.store, bundle, signer)
    row = CatalogRow(asset=PLAN_ASSET, data_version=key, dataset_version=world.dataset)
    return bundle, Trust(keys=(*world.trust.keys, signer.public), rows={**world.trust.rows, bundle: row})


def answers(engine: GraphEngine) -> bool:
    return bool(np.isfinite(engine.decode(np.zeros((1, 8, 4, 4), np.float32))).all())


def test_verified_plans_run_and_refused_ones_fall_back_loudly(
    world: World, signer: Signer, gpu: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    bundle, trust = kept(world, signer)
    fallbacks: Counter[str] = Counter()
    engine = open_engine(world.store, world.engine, trust, fallbacks=fallbacks)
    assert engine.backend == "tensorrt"
    assert sorted(gpu) == [b"plan of decoder", b"plan of encoder", b"plan of text", b"plan of trunk"]
    assert engine.fallback is None
    assert not fallbacks

    gpu.clear()
    key = open_bundle(world.store, bundle).files["trunk.plan"].key
    whole = world.store.get(key)
    world.store.put(key, flipped(whole, 0))
    with caplog.at_level(logging.ERROR):
        engine = open_engine(world.store, world.engine, trust, fallbacks=fallbacks)
    world.store.put(key, whole)
    assert gpu == []  # nothing was deserialised, not even what was whole
    assert (engine.backend, fallbacks["plan"]) == ("onnxruntime", 1)
    assert engine.fallback is not None
    assert "trunk.plan" in engine.fallback
    assert "falls back to ONNX Runtime" in caplog.text
    assert answers(engine)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine of another kind; the graphs that plans were built of on it."""
    monkeypatch.setattr(tensorrt, "environment", lambda: dict(L4))
    asked: list[str] = []

    def build_plans(store: ObjectStore, models: dict[str, Any], meta: dict[str, Any]) -> dict[str, Built]:
        asked.extend(sorted(models))
        return built(tuple(models))

    monkeypatch.setattr(plans, "build_plans", build_plans)
    return asked


def test_a_gpu_without_plans_builds_them_once_and_keeps_them(
    world: World, gpu: list[bytes], builds: list[str], tmp_path: Path
) -> None:
    before = set(world.store.list(""))
    for _ in range(2):
        engine = open_engine(world.store, world.engine, world.trust)
        assert engine.backend == "tensorrt"
    assert builds == ["decoder", "encoder", "text", "trunk"]
    assert len(gpu) == 8
    assert set(world.store.list("")) == before  # the line's store may be read-only here
    assert own.own_folder() == tmp_path / "backdrop" / "plans"
    assert own.own_folder().stat().st_mode & 0o777 == 0o700


def test_own_plans_are_refused_when_they_are_changed_and_not_read_where_others_may_write(
    world: World, gpu: list[bytes], builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    open_engine(world.store, world.engine, world.trust)
    gpu.clear()
    folder = own.own_folder()
    files = [path for path in folder.rglob("*") if path.is_file() and "timing" not in path.parts]
    assert len(files) == 4 + 4  # plans; pointer, manifest, signature, key
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, len(whole) // 2))
        assert open_engine(world.store, world.engine, world.trust).backend == "onnxruntime", path
        path.write_bytes(whole)
    assert gpu == []
    folder.chmod(0o770)
    builds.clear()
    assert open_engine(world.store, world.engine, world.trust).backend == "tensorrt"
    assert len(builds) == 4
    assert "open to others" in caplog.text
    folder.chmod(0o700)
    assert open_engine(world.store, world.engine, world.trust).backend == "tensorrt"
    builds.clear()
    next(folder.rglob("*.signature.json")).unlink()  # killed before it was signed
    assert open_engine(world.store, world.engine, world.trust).backend == "tensorrt"
    assert len(builds) == 4


def test_plans_that_cannot_be_kept_run_all_the_same(
    world: World, gpu: list[bytes], builds: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "backdrop").write_text("no folder")
    assert open_engine(world.store, world.engine, world.trust).backend == "tensorrt"
    assert "the plans are not kept" in caplog.text


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (BackdropError("out of device memory", "free some"), "out of device memory"),
        (RuntimeError("CUDA error: no kernel image\nmore"), "RuntimeError: CUDA error: no kernel image"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        (OSError(30, "Read-only file system"), "OSError: [Errno 30] Read-only file system"),
    ],
)
def test_whatever_fails_falls_back_loudly(
    world: World,
    gpu: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    why: str,
) -> None:
    monkeypatch.setattr(tensorrt, "environment", lambda: dict(L4))
    monkeypatch.setattr(plans, "build_plans", Mock(side_effect=error))
    fallbacks: Counter[str] = Counter()
    engine = open_engine(world.store, world.engine, world.trust, "tensorrt", fallbacks=fallbacks)
    assert (engine.backend, engine.fallback, fallbacks["plan"]) == ("onnxruntime", why, 1)
    assert "falls back to ONNX Runtime" in caplog.text
    assert answers(engine)


def test_a_plan_that_does_not_start_frees_those_that_did(
    world: World, signer: Signer, gpu: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trust = kept(world, signer)
    closed: list[str] = []

    class Third(Planned):
        def __init__(self, name: str, plan: bytes) -> None:
            super().__init__(name, plan)
            self.name = name
            if len(gpu) == 3:
                raise RuntimeError("out of memory")

        def close(self) -> None:
            closed.append(self.name)

    monkeypatch.setattr(runtime, "TrtGraph", Third)
    assert open_engine(world.store, world.engine, trust).backend == "onnxruntime"
    assert len(closed) == 2


def test_an_engine_of_another_schema_names_the_way_out(store: ObjectStore, signer: Signer) -> None:
    identity, trust = engine(store, signer)
    with pytest.raises(BackdropError, match=r"schema None, this release opens schema 3") as refused:
        open_engine(store, identity, trust)
    assert "Materialise tensorrt_engine again" in refused.value.remedy
    assert "backdrop promote" in refused.value.remedy


def test_a_changed_graph_is_no_fallback(world: World, signer: Signer, gpu: list[bytes]) -> None:
    """ONNX Runtime would run the same graph: there is nothing to fall back to."""
    _, trust = kept(world, signer)
    key = open_bundle(world.store, world.engine).files["trunk.onnx"].key
    whole = world.store.get(key)
    world.store.put(key, flipped(whole, 9))
    try:
        with pytest.raises(BackdropError, match=r"trunk\.onnx"):
            open_engine(world.store, world.engine, trust)
    finally:
        world.store.put(key, whole)
    assert gpu == []
    assert opening.choose_backend("auto") == "tensorrt"
