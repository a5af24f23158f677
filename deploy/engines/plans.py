"""Plans as a cache: found under the hash of everything that made them, verified before a byte is deserialised.

    plans/<key>.json              {"bundle": id}: which bundle holds the plans of this key
    manifests/<id>.json           their manifest, signed beside it, known to the catalog under the same key
    plans/timing/<sha256>.bin     what TensorRT measured while it built: to be pinned by that hash
    plans/refit/<key>.json        {"bundle": id}: the newest refittable plans of this key, which leaves the weights out

Losing all of it costs the minutes of a build; loading a wrong one would run somebody else's code.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.engines.model import OnnxModel
from deploy.engines.onnxruntime import CPU, OrtGraph
from deploy.engines.tensorrt.build import BuildOptions, Built, build
from deploy.engines.tensorrt.layers import LayerSummary
from deploy.engines.tensorrt.profiles import Profile
from deploy.manifest import PLAN, PLAN_ASSET, Trust, open_verified
from infra.bundles import Bundle, write_bundle
from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes
from infra.object_store import ObjectMissing, ObjectStore

log = logging.getLogger(__name__)

SCHEMA = 2  # raised when a build changes: 2 is without TF32


def plan_inputs(engine: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that makes the plans of an engine (its manifest) on a machine (`tensorrt.environment`)."""
    return {
        "schema": SCHEMA,
        "onnx_sha256": engine["onnx_sha256"],
        "opset": engine["opset"],
        "precision": engine["precision"],
        "profiles": engine["profiles"],
        "options": engine["tensorrt"],
        "environment": dict(environment),
    }


def plan_key(inputs: Mapping[str, Any]) -> str:
    """The name of the cache entry: a hash of `plan_inputs`."""
    return sha256_bytes(canonical_json(dict(inputs)))


def pointer_key(key: str) -> str:
    return f"plans/{key}.json"


def refit_key(inputs: Mapping[str, Any]) -> str:
    """Where the newest plans are named that differ from those of `inputs` in their weights at most."""
    others = {name: value for name, value in inputs.items() if name != "onnx_sha256"}
    return f"plans/refit/{plan_key(others)}.json"


def timing_key(digest: str) -> str:
    return f"plans/timing/{digest}.bin"


def build_plans(store: ObjectStore, models: Mapping[str, OnnxModel], engine: Mapping[str, Any]) -> dict[str, Built]:
    """Graph → plan for this machine's GPU. Nothing is written to the store.

    A graph begins with what the ones before it measured. Raises BackdropError (see `build`).
    """
    options = BuildOptions(**engine["tensorrt"])
    try:
        cache = store.get(timing_key(options.timing_cache)) if options.timing_cache else b""
    except ObjectMissing:
        raise BackdropError(
            f"The pinned timing cache {str(options.timing_cache)[:12]}… is not in the store.",
            "Put it back, or take the pin out of the export section.",
        ) from None
    built: dict[str, Built] = {}
    for name, model in models.items():
        profiles = [Profile(**profile) for profile in engine["profiles"][name]]
        built[name] = build(model, profiles, options, cache)
        cache = built[name].timing_cache
    return built


def refit_plans(
    store: ObjectStore,
    models: Mapping[str, OnnxModel],
    engine: Mapping[str, Any],
    environment: Mapping[str, Any],
    trust: Trust,
    golden: Mapping[str, Mapping[str, np.ndarray]],
    tolerances: Mapping[str, float],
) -> dict[str, Built] | None:
    """Graph → plan, made from kept plans of another engine by giving them this one's weights; None: build.

    `golden`: graph → inputs on which a refitted plan is held against ONNX Runtime (see `refit`). What cannot be
    refitted, or must not be loaded, is said in the log.
    """
    inputs = plan_inputs(engine, environment)
    try:
        kept = _entry(store, refit_key(inputs), trust)
        if kept is None or refit_key(kept.meta["inputs"]) != refit_key(inputs):
            return None
        return {name: _refitted(kept, name, model, golden[name], tolerances[name]) for name, model in models.items()}
    except BackdropError as error:
        log.warning("plans are built and not refitted: %s", error)
        return None


def _refitted(kept: Bundle, name: str, model: OnnxModel, golden: Mapping[str, np.ndarray], tolerance: float) -> Built:
    from deploy.engines.tensorrt.refit import refit

    started = time.monotonic()
    reference = OrtGraph(model, providers=[CPU])
    expected = reference(golden)
    reference.close()
    plan = refit(name, kept.read(f"{name}.plan"), model, golden, expected, tolerance)
    facts = kept.meta["graphs"][name]
    return Built(plan, b"", LayerSummary(**facts["layers"]), facts["device_bytes"], time.monotonic() - started)


def write_plans(
    store: ObjectStore,
    inputs: Mapping[str, Any],
    built: Mapping[str, Built],
    facts: Mapping[str, Any],
    dataset_version: str,
) -> tuple[str, str]:
    """(cache key, bundle id) of plans that are now in the store, with what was measured while they were built.

    They load once they are signed and in the catalog.
    """
    key = plan_key(inputs)
    meta = {
        "schema": SCHEMA,
        "catalog": {"asset": PLAN_ASSET, "data_version": key, "dataset_version": dataset_version},
        "key": key,
        "inputs": dict(inputs),
        "host": platform.node(),
        "graphs": {
            name: {
                "plan_sha256": sha256_bytes(one.plan),
                "bytes": len(one.plan),
                "device_bytes": one.device_bytes,
                "build_seconds": round(one.seconds, 1),
                "layers": one.layers.as_dict(),
                "timing_cache_sha256": sha256_bytes(one.timing_cache),
            }
            for name, one in built.items()
        },
        **facts,
    }
    if timing := [one.timing_cache for one in built.values() if one.timing_cache][-1:]:  # the last has them all
        store.put(timing_key(sha256_bytes(timing[0])), timing[0])
    files = {f"{name}.plan": one.plan for name, one in built.items()}
    bundle = write_bundle(store, f"plans/{key}", PLAN, files, meta)
    for pointer in (pointer_key(key), *([refit_key(inputs)] if inputs["options"].get("refittable") else [])):
        store.put(pointer, canonical_json({"bundle": bundle}))
    return key, bundle


def read_plans(
    store: ObjectStore, inputs: Mapping[str, Any], trust: Trust, graphs: Sequence[str]
) -> dict[str, bytes] | None:
    """Graph → verified plan for exactly these inputs; None where none was built for them.

    Raises BackdropError for an entry that must not be loaded: changed, unsigned, unknown to the catalog, or made from
    anything else than `inputs` (another GPU, another release, other profiles, another graph).
    """
    key = plan_key(inputs)
    bundle = _entry(store, pointer_key(key), trust)
    if bundle is None:
        return None
    theirs = bundle.meta.get("inputs", {})
    if bundle.meta.get("key") != key or plan_key(theirs) != key:
        differ = "; ".join(differences(inputs, theirs)) or "their key"
        raise BackdropError(
            f"The plans {bundle.id[:12]}… were made for something else: {differ}.",
            "Delete their entry: they are built again on this machine.",
        )
    missing = sorted(name for name in graphs if f"{name}.plan" not in bundle.files)
    if missing:
        raise BackdropError(f"The plans {bundle.id[:12]}… lack {', '.join(missing)}.", "Delete their entry.")
    return {name: bundle.read(f"{name}.plan") for name in graphs}


def _entry(store: ObjectStore, pointer: str, trust: Trust) -> Bundle | None:
    """The verified plans that the entry `pointer` names; None where there is none. Raises BackdropError."""
    try:
        identity = str(json.loads(store.get(pointer))["bundle"])
    except ObjectMissing:
        return None
    except (ValueError, KeyError, TypeError):
        raise BackdropError(f"The entry {pointer} is damaged.", "Delete it: the plans are built again.") from None
    try:
        return open_verified(store, identity, PLAN, trust)
    except ObjectMissing:
        raise BackdropError(
            f"The plans {identity[:12]}… are not in the store.", "Delete their entry: they are built again."
        ) from None


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nested mappings, in words: "gpu is 'NVIDIA H200' here, 'NVIDIA L4' there"."""
    found: list[str] = []
    for name in sorted({*mine, *theirs}):
        ours, other = mine.get(name), theirs.get(name)
        if isinstance(ours, Mapping) and isinstance(other, Mapping):
            found += differences(ours, other, f"{prefix}{name}.")
        elif ours != other:
            found.append(f"{prefix}{name} is {ours!r:.80} here, {other!r:.80} there")
    return found
