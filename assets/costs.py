"""What a result cost: the GPU-seconds of its own job, and of every job that it came from.

    <output>/cost.json           what the job's launcher wrote: {"gpu_seconds", "preempted_gpu_seconds", "gpu_cost"}
    <output>/lineage-cost.json   the same by job, of this one and of all before it; each job counts once

On one machine nothing is counted, and neither object is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from infra.files import canonical_json
from infra.jobs.kubernetes.variables import COST
from infra.object_store import ObjectMissing, ObjectStore

LINEAGE = "lineage-cost.json"

Costs = dict[str, dict[str, float]]  # by output


def spent(store: ObjectStore, output: str, upstream: Iterable[str]) -> Costs:
    """What the result below `output` cost, from the outputs that it was made of; kept beside it."""
    found: Costs = {}
    for earlier in upstream:
        found |= _read(store, f"{earlier}/{LINEAGE}")
    own = _read(store, f"{output}/{COST}")
    if own:
        found[output] = own
    if found:
        store.put(f"{output}/{LINEAGE}", canonical_json(found))
    return found


def shown(costs: Costs, output: str) -> dict[str, float]:
    """For the asset's page: the job's own, and the sums over its lineage."""
    return {**costs.get(output, {}), **{f"lineage_{name}": value for name, value in total(costs).items()}}


def total(costs: Costs) -> dict[str, float]:
    """The sums over all jobs."""
    names = sorted({name for one in costs.values() for name in one})
    return {name: round(sum(one.get(name, 0.0) for one in costs.values()), 2) for name in names}


def tags(costs: Costs) -> Mapping[str, str]:
    """For a model version: what it cost with all that it came from."""
    return {f"backdrop.{name}": str(value) for name, value in total(costs).items()}


def _read(store: ObjectStore, key: str) -> dict[str, Any]:
    try:
        return dict(json.loads(store.get(key)))
    except ObjectMissing:
        return {}
