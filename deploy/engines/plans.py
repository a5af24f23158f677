"""Plans as a cache: found under the hash of everything that made them, verified before a byte is deserialised.

    plans/<key>.json              {"bundle": id}: which bundle holds the plans of this key
    manifests/<id>.json           their manifest, signed beside it, known to the catalog under the same key
    plans/timing/<sha256>.bin     what TensorRT measured while it built: to be pinned by that hash

Losing all of it costs the minutes of a build; loading a wrong one would run somebody else's code.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.engines.model import OnnxModel
from deploy.engines.tensorrt.build import BuildOptions, Built, build
from deploy.engines.tensorrt.profiles import Profile
from deploy.manifest import PLAN, PLAN_ASSET, Trust, open_verified
from infra.bundles import write_bundle
from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes
from infra.object_store import ObjectMissing, ObjectStore

SCHEMA = 1


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


def timing_key(digest: str) -> str:
    return f"plans/timing/{digest}.bin"


def build_plans(
    store: ObjectStore, models: Mapping[str, OnnxModel], engine: Mapping[str, Any]
) -> tuple[dict[str, Built], str]:
    """Graph → plan for this machine's GPU, and the hash of the timing cache, which is kept in the store.

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
    digest = sha256_bytes(cache)
    store.put(timing_key(digest), cache)
    return built, digest


def write_plans(
    store: ObjectStore,
    inputs: Mapping[str, Any],
    built: Mapping[str, Built],
    facts: Mapping[str, Any],
    dataset_version: str,
) -> tuple[str, str]:
    """(cache key, bundle id) of plans that are now in the store. They load once they are signed and in the catalog."""
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
    files = {f"{name}.plan": one.plan for name, one in built.items()}
    bundle = write_bundle(store, f"plans/{key}", PLAN, files, meta)
    store.put(pointer_key(key), canonical_json({"bundle": bundle}))
    return key, bundle


def read_plans(
    store: ObjectStore, inputs: Mapping[str, Any], trust: Trust, graphs: Sequence[str]
) -> dict[str, bytes] | None:
    """Graph → verified plan for exactly these inputs; None where none was built for them.

    Raises BackdropError for an entry that must not be loaded: changed, unsigned, unknown to the catalog, or made from
    anything else than `inputs` (another GPU, another release, other profiles, another graph).
    """
    key = plan_key(inputs)
    try:
        pointer = store.get(pointer_key(key))
    except ObjectMissing:
        return None
    try:
        identity = str(json.loads(pointer)["bundle"])
    except (ValueError, KeyError, TypeError):
        raise BackdropError(
            f"The entry {pointer_key(key)} is damaged.", "Delete it: the plans are built again."
        ) from None
    try:
        bundle = open_verified(store, identity, PLAN, trust)
    except ObjectMissing:
        raise BackdropError(
            f"The plans {identity[:12]}… are not in the store.", "Delete their entry: they are built again."
        ) from None
    theirs = bundle.meta.get("inputs", {})
    if bundle.meta.get("key") != key or plan_key(theirs) != key:
        differ = "; ".join(differences(inputs, theirs)) or "their key"
        raise BackdropError(
            f"The plans {identity[:12]}… were made for something else: {differ}.",
            "Delete their entry: they are built again on this machine.",
        )
    missing = sorted(name for name in graphs if f"{name}.plan" not in bundle.files)
    if missing:
        raise BackdropError(f"The plans {identity[:12]}… lack {', '.join(missing)}.", "Delete their entry.")
    return {name: bundle.read(f"{name}.plan") for name in graphs}


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
