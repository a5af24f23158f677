"""TensorRT without TensorRT: its calls against a recorder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from deploy.engines import plans
from deploy.engines.model import OnnxModel
from deploy.engines.plans import build_plans, plan_inputs, refit_plans, timing_key, write_plans
from deploy.engines.tensorrt import refit as refitting
from deploy.engines.tensorrt.build import BuildOptions, Built, build, dimensions_of
from deploy.engines.tensorrt.layers import LayerSummary, expected_fusions, summarise
from deploy.engines.tensorrt.profiles import Profile, bucket_profiles, fitting
from deploy.engines.tensorrt.runtime import TrtGraph
from deploy.graphs import to_onnx, trunk_export
from deploy.manifest import PLAN_ASSET, CatalogRow, Trust, sign_bundle
from deploy.precision import Recipe, bake
from deploy.signing import open_signer
from infra.bundles import open_bundle
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.object_store import open_store
from tests.deploy.conftest import World
from tests.deploy.trt_recorder import GOLDEN, LAYERS, PROFILE, RANGES, builder, graph, refitter, runner, zeros
from training.models.io import load_model


def test_a_build_is_strongly_typed_with_a_profile_per_bucket(installed: Any) -> None:
    recorder = installed(builder(["x"]))
    other = Profile("2x1", {"batch": 1, "rows": 2}, {"batch": 1, "rows": 2}, {"batch": 4, "rows": 2})
    built = build(graph(), [PROFILE, other], BuildOptions(refittable=True), b"")
    assert built.plan == b"plan"
    assert "STRONGLY_TYPED" in recorder.names
    assert not recorder.names & {"FP16", "BF16", "EXPLICIT_BATCH", "set_precision", "max_workspace_size"}
    assert recorder.called("set_shape") == [
        ("x", (1, 1, 1, 8), (1, 1, 1, 8), (4, 1, 1, 8)),
        ("x", (1, 1, 1, 4), (1, 1, 1, 4), (4, 1, 1, 4)),
    ]
    assert len(recorder.called("add_optimization_profile")) == 2
    assert [str(flag) for (flag,) in recorder.called("set_flag")] == ["REFIT"]
    assert [str(flag) for (flag,) in recorder.called("clear_flag")] == ["TF32"]  # float32 means float32
    assert (3,) in recorder.called("builder_optimization_level=")
    assert built.layers.fused_attention == 2
    assert built.layers.float32 == 1
    assert built.device_bytes == 4096


def test_the_parser_s_own_words_are_passed_on(installed: Any) -> None:
    installed(builder(["x"], parse=lambda graph: False, num_errors=1, get_error=lambda index: "no Einsum"))
    with pytest.raises(BackdropError, match=r"does not take g\.onnx: no Einsum"):
        build(graph(), [PROFILE], BuildOptions())
    installed(builder(["x"], build_serialized_network=lambda network, config: None))
    with pytest.raises(BackdropError, match="could not build"):
        build(graph(), [PROFILE], BuildOptions())


def test_external_weights_are_found_beside_the_file(installed: Any, tmp_path: Path) -> None:
    recorder = installed(builder(["x"]))
    model = graph()
    build(OnnxModel(model.name, model.graph, tmp_path), [PROFILE], BuildOptions())
    assert recorder.called("parse_from_file") == [(str(tmp_path / "g.onnx"),)]


def test_a_pinned_timing_cache_is_the_one_and_stays_the_one(installed: Any) -> None:
    pinned = sha256_bytes(b"measured")
    recorder = installed(builder(["x"]))
    assert build(graph(), [PROFILE], BuildOptions(timing_cache=pinned), b"measured").timing_cache == b"measured"
    assert recorder.called("create_timing_cache") == [(b"measured",)]
    assert [str(flag) for (flag,) in recorder.called("set_flag")] == ["ERROR_ON_TIMING_CACHE_MISS"]
    with pytest.raises(BackdropError, match="pinned is"):
        build(graph(), [PROFILE], BuildOptions(timing_cache=pinned), b"measured elsewhere")
    more = lambda: SimpleNamespace(serialize=lambda: b"measured and more")  # noqa: E731
    installed(builder(["x"], get_timing_cache=more))
    with pytest.raises(BackdropError, match="did not suffice"):
        build(graph(), [PROFILE], BuildOptions(timing_cache=pinned), b"measured")
    installed(builder(["x"], set_timing_cache=lambda cache, ignore: ignore))
    with pytest.raises(BackdropError, match="another GPU or release"):
        build(graph(), [PROFILE], BuildOptions())


def test_graphs_share_a_timing_cache_that_can_be_pinned(installed: Any, tmp_path: Path) -> None:
    recorder = installed(builder(["x"]))
    store = open_store(f"file://{tmp_path}/store")
    profile = {"bucket": "1x1", "low": PROFILE.low, "best": PROFILE.best, "high": PROFILE.high}
    engine = {"tensorrt": BuildOptions().as_dict(), "profiles": {"trunk": [profile], "text": [profile]}}
    built = build_plans(store, {"trunk": graph(), "text": graph()}, engine)
    assert set(built) == {"trunk", "text"}
    assert recorder.called("create_timing_cache") == [(b"",), (b"measured",)]
    assert list(store.list("")) == []  # who opens an engine may not be allowed to write
    digest = sha256_bytes(b"measured")
    write_plans(store, plan_inputs(META, {"gpu": "L4"}), built, {}, "d")
    assert store.get(timing_key(digest)) == b"measured"
    pinned = {**engine, "tensorrt": BuildOptions(timing_cache=digest).as_dict()}
    assert build_plans(store, {"trunk": graph()}, pinned)["trunk"].timing_cache == b"measured"
    store.delete(timing_key(digest))
    with pytest.raises(BackdropError, match="is not in the store"):
        build_plans(store, {"trunk": graph()}, pinned)


def test_attention_that_is_not_fused_is_refused_in_half_precision(installed: Any) -> None:
    installed(builder(["x"], get_engine_information=lambda form: '{"Layers": ["softmax", "gemm"]}'))
    with pytest.raises(BackdropError, match="Of 2 attentions"):
        build(graph(), [PROFILE], BuildOptions())
    assert build(graph(), [PROFILE], BuildOptions(fused_attention=False)).layers.layers == 2
    assert build(graph(half=False), [PROFILE], BuildOptions()).layers.fused_attention == 0


def test_layers_are_counted_by_the_inspector_s_words() -> None:
    assert summarise(LAYERS).as_dict() == {"layers": 3, "fused_attention": 2, "float32": 1}
    assert summarise({"Layers": ["_gemm_mha_v2", "conv"]}).fused_attention == 1
    assert summarise({}).layers == 0
    assert expected_fusions(graph().graph) == 2
    assert expected_fusions(graph(heads=(1,)).graph) == 0  # one wide head over three dimensions


def test_of_the_trunk_only_attentions_of_several_heads_are_expected_to_fuse(world: World) -> None:
    """The negative text is read by one wide head beside the blocks' own attentions."""
    model = onnx.load_model_from_string(open_bundle(world.store, world.engine).read("trunk.onnx"))
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph.node)
    lowered = to_onnx(trunk_export(load_model(world.store, world.student)), 18).model
    bake(lowered, Recipe("float16"))
    assert 0 < expected_fusions(lowered.SerializeToString()) == softmaxes - 1


def test_a_call_takes_the_profile_that_holds_its_shapes(installed: Any) -> None:
    recorder = installed(runner(RANGES, "y", (2, 8)))
    plan = TrtGraph("trunk", b"plan")
    assert recorder.called("deserialize_cuda_engine") == [(b"plan",)]
    assert plan({"x": zeros(2, 4), "t": zeros(2)}).shape == (2, 8)
    assert recorder.called("set_optimization_profile_async") == []
    plan({"x": zeros(3, 8), "t": zeros(3)})
    plan({"x": zeros(1, 8), "t": zeros(1)})
    assert recorder.called("set_optimization_profile_async") == [(1, 7)]
    assert ("x", (3, 8)) in recorder.called("set_input_shape")
    with pytest.raises(BackdropError, match=r"no profile for x \(2, 9\)"):
        plan({"x": zeros(2, 9), "t": zeros(2)})
    recorder.calls.clear()
    assert plan({"x": zeros(7, 8), "t": zeros(7)}).shape[1:] == (8,)  # in parts that the profiles hold
    assert [shape for name, shape in recorder.called("set_input_shape") if name == "x"] == [(4, 8), (3, 8)]
    plan.close()
    with pytest.raises(ValueError, match="closed"):
        plan({"x": zeros(2, 4), "t": zeros(2)})


def test_a_plan_that_tensorrt_refuses_or_fails_to_run_is_one_clear_message(installed: Any) -> None:
    installed(runner(RANGES, "y", (2, 8), deserialize_cuda_engine=lambda plan: None))
    with pytest.raises(BackdropError, match="refuses the plan of trunk"):
        TrtGraph("trunk", b"plan")
    installed(runner(RANGES, "y", (2, 8), create_execution_context=lambda: None))
    with pytest.raises(BackdropError, match="no device memory to run the plan of trunk"):
        TrtGraph("trunk", b"plan")
    installed(runner(RANGES, "y", (2, 8), execute_async_v3=lambda stream: False))
    with pytest.raises(BackdropError, match="failed to run"):
        TrtGraph("trunk", b"plan")({"x": zeros(2, 4), "t": zeros(2)})


def test_a_refit_counts_only_when_complete_and_golden(installed: Any, tmp_path: Path) -> None:
    recorder = installed(refitter())
    assert refitting.refit("trunk", b"plan", graph(), GOLDEN, zeros(2, 8), 1e-3) == b"refitted"
    assert recorder.called("deserialize_cuda_engine") == [(b"plan",), (b"refitted",)]
    beside = OnnxModel("g.onnx", graph().graph, tmp_path)
    assert refitting.refit("trunk", b"plan", beside, GOLDEN, zeros(2, 8), 1e-3) == b"refitted"
    with pytest.raises(BackdropError, match="off by"):
        refitting.refit("trunk", b"plan", graph(), GOLDEN, zeros(2, 8) + 1, 1e-3)
    bad = [
        ({"get_missing_weights": lambda: ["blocks.0.qkv"]}, r"without a value: blocks\.0\.qkv"),
        ({"refit_from_bytes": lambda graph: False}, "a shape changed"),
        ({"refit_cuda_engine": lambda: False}, "could not refit"),
        ({"refittable": False}, "cannot be refitted"),
        ({"deserialize_cuda_engine": lambda plan: None}, "cannot be refitted"),
    ]
    for answers, why in bad:
        installed(refitter(**answers))
        with pytest.raises(BackdropError, match=why):
            refitting.refit("trunk", b"plan", graph(), GOLDEN, zeros(2, 8), 1e-3)


META: dict[str, Any] = {
    "onnx_sha256": {"g.onnx": "ab"},
    "opset": 18,
    "precision": {"format": "float16"},
    "profiles": {"trunk": []},
    "tensorrt": BuildOptions(refittable=True).as_dict(),
}
H200 = {"gpu": "NVIDIA H200", "tensorrt": "11.4.0"}


def test_plans_of_other_weights_are_refitted_when_they_are_to_be_trusted(
    installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, signer = open_store(f"file://{tmp_path}/store"), open_signer(None, tmp_path)
    old, new = META, {**META, "onnx_sha256": {"g.onnx": "cd"}}
    built = {"trunk": Built(b"old plan", b"measured", LayerSummary(3, 2, 1), 10, 60.0)}
    key, bundle = write_plans(store, plan_inputs(old, H200), built, {}, "d")
    row = CatalogRow(asset=PLAN_ASSET, data_version=key, dataset_version="d")
    trust = Trust(keys=(signer.public,), rows={bundle: row})
    monkeypatch.setattr(plans, "OrtGraph", lambda model, providers: Elsewhere())

    def refitted(engine: dict[str, Any] = new, environment: dict[str, str] = H200) -> dict[str, Built] | None:
        golden, allowed = {"trunk": GOLDEN}, {"trunk": 1e-3}
        return refit_plans(store, {"trunk": graph()}, engine, environment, trust, golden, allowed)

    recorder = installed(refitter())
    assert refitted() is None  # not signed
    assert "is not signed" in caplog.text
    sign_bundle(store, bundle, signer)
    assert refitted({**new, "opset": 19}) is None
    assert refitted(environment={**H200, "gpu": "NVIDIA L4"}) is None
    assert recorder.called("deserialize_cuda_engine") == []
    found = refitted()
    assert found is not None
    assert (found["trunk"].plan, found["trunk"].layers, found["trunk"].device_bytes) == (
        b"refitted", LayerSummary(3, 2, 1), 10,
    )  # fmt: skip
    assert recorder.called("deserialize_cuda_engine")[0] == (b"old plan",)
    installed(refitter(get_missing_weights=lambda: ["blocks.0.qkv"]))
    assert refitted() is None
    assert "built and not refitted" in caplog.text

    another = write_plans(store, plan_inputs({**META, "tensorrt": BuildOptions().as_dict()}, H200), built, {}, "d")[1]
    assert len(list(store.list("plans/refit/"))) == 1, another  # what cannot be refitted is not offered


class Elsewhere:
    """ONNX Runtime, which gives what the recorder's plan does."""

    def __call__(self, feeds: object) -> np.ndarray:
        return zeros(2, 8)

    def close(self) -> None:
        pass


def test_profiles_come_from_the_buckets() -> None:
    found = bucket_profiles({"1x1": (64, 64), "2x1": (32, 64)}, factor=8, patch=2, tokens=24, batch=4)
    assert [profile["bucket"] for profile in found["trunk"]] == ["1x1", "2x1"]
    trunk = Profile(**found["trunk"][1])  # type: ignore[arg-type]
    assert trunk.shapes(["batch", 8, "2*rows", "2*columns"]) == ((1, 8, 4, 8), (1, 8, 4, 8), (4, 8, 4, 8))
    assert trunk.shapes(["batch", "tokens"]) == ((1, 1), (1, 24), (4, 24))
    assert Profile(**found["decoder"][0]).shapes(["8*rows"]) == ((64,), (64,), (64,))  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        trunk.shapes(["length"])
    with pytest.raises(LookupError):
        fitting({"x": (1, 4, 4)}, RANGES)


def test_every_free_dimension_of_the_onnx_files_has_a_profile(world: World) -> None:
    bundle = open_bundle(world.store, world.engine)
    assert set(bundle.meta["profiles"]) == {"encoder", "decoder", "trunk", "text"}
    for name, profiles in bundle.meta["profiles"].items():
        for dimensions in dimensions_of(bundle.read(f"{name}.onnx")).values():
            low, best, high = Profile(**profiles[0]).shapes(dimensions)
            assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
