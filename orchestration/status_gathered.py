"""What `backdrop status` says of the line: asked of Dagster's instance, the catalog and the registry, a fixed number of
queries each, however many deliveries there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.automation import gather as asked
from orchestration.check_results import newest_finished
from orchestration.screen import plain
from orchestration.status_models import aliases

if TYPE_CHECKING:
    from assets.line import Line

DATA_VERSION, INPUT = "dagster/data_version", "dagster/input_data_version/"
FRESH, STALE, MISSING = "fresh", "stale", "missing"
ALERTS, SHOWN = 3, ("since", "ended_at", "kind", "title")
"""How many of the newest alerts, and what of each."""
_DAEMON_S = 120


@dataclass(frozen=True)
class Made:
    """An asset as it was last made: its data version, and those of its inputs then. Of a partitioned one `parts`."""

    at: float
    version: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    run: str = ""


def gather(line: Line, instance: dg.DagsterInstance, *, mlflow_up: bool) -> dict[str, Any]:
    """Runs, assets, models, automation and alerts as they are now."""
    from orchestration.alerts import listing

    return {
        "run": _newest_run(instance),
        "assets": _assets(line, instance),
        **aliases(line, mlflow_up=mlflow_up),
        "budget": _budget(line, instance),
        "automation": _automation(instance),
        "alerts": [{name: one[name] for name in SHOWN} for one in listing.newest(line.catalog, ALERTS)],
    }


def reasons(
    asset: str, made: Mapping[str, Made], upstream: Mapping[str, Sequence[str]], stale: Mapping[str, list[str]]
) -> list[str]:
    """Why an asset is stale; empty while its inputs are those that it was made of. Pure.

    `stale`: what is known of the assets before it. An input that was never written down says nothing.
    """
    found = []
    for name in upstream.get(asset, ()):
        before = made[asset].inputs.get(name)
        if name in made and before is not None and before != made[name].version:
            found.append(f"{name} is another since")
        elif stale.get(name):
            found.append(f"{name} is stale")
    return found


def _newest_run(instance: dg.DagsterInstance) -> dict[str, Any] | None:
    records = instance.get_run_records(limit=1)
    if not records:
        return None
    run, record = records[0].dagster_run, records[0]
    return {
        "id": run.run_id,
        "job": run.job_name,
        "partition": run.tags.get("dagster/partition"),
        "state": run.status.value.lower(),
        "started_at": _iso(record.start_time),
        "ended_at": _iso(record.end_time),
    }


# ── assets ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _assets(line: Line, instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    from orchestration.definitions import LINEAGE

    keys = [asset.key for asset in LINEAGE]
    upstream = {
        asset.key.to_user_string(): [key.to_user_string() for key in asset.asset_deps[asset.key]] for asset in LINEAGE
    }
    made, metadata = _made(instance, keys)
    failed = _failed_checks(instance, made)
    stale: dict[str, list[str]] = {}
    found = []
    for asset in LINEAGE:
        name = asset.key.to_user_string()
        parts = _parts(line, instance, asset) if asset.partitions_def is not None else None
        if name in made:
            if name == "training_set":
                stale[name] = _dataset_reasons(line, made[name])
            else:
                stale[name] = _parts_reasons(parts) if parts else reasons(name, made, upstream, stale)
        one = made.get(name)
        found.append(
            {
                "asset": name,
                "state": MISSING if one is None else STALE if stale[name] else FRESH,
                "why": stale.get(name, []),
                "at": _iso(one.at) if one else None,
                "data_version": one.version if one else None,
                "dataset_version": metadata.get(name, {}).get("dataset_version"),
                "run": one.run if one else None,
                "partitions": {key: parts[key] for key in ("made", "of")} if parts else None,
                "checks_failed": failed.get(name, {}).get("ERROR", []),
                "checks_warned": failed.get(name, {}).get("WARN", []),
            }
        )
    return found


def _made(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]
) -> tuple[dict[str, Made], dict[str, dict[str, Any]]]:
    made, metadata = {}, {}
    for record in instance.get_asset_records(keys):
        newest = record.asset_entry.last_materialization_record
        event = newest.asset_materialization if newest else None
        if newest is None or event is None:
            continue
        tags = event.tags or {}
        inputs = {name.removeprefix(INPUT): version for name, version in tags.items() if name.startswith(INPUT)}
        name = record.asset_entry.asset_key.to_user_string()
        made[name] = Made(newest.timestamp, tags.get(DATA_VERSION, ""), inputs, newest.run_id)
        metadata[name] = {key: value.value for key, value in event.metadata.items() if key == "dataset_version"}
    return made, metadata


def _parts(line: Line, instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> dict[str, int]:
    """How many partitions are made, of how many, and how many of them would be another now."""
    names = set(asset.partitions_def.get_partition_keys(dynamic_partitions_store=instance))  # type: ignore[union-attr]
    made = instance.event_log_storage.get_materialized_partitions(asset.key)
    changed = 0
    if asset.key == dg.AssetKey("filtered_shards"):
        batches = asked.deliveries(line, instance).batches
        changed = sum(batch.is_due for batch in batches if batch.name in made)
    return {"made": len(made & names), "of": len(names), "changed": changed}


def _parts_reasons(parts: Mapping[str, int]) -> list[str]:
    found = [f"{parts['of'] - parts['made']} are not made"] if parts["made"] < parts["of"] else []
    return found + ([f"{parts['changed']} would be filtered anew"] if parts["changed"] else [])


def _dataset_reasons(line: Line, made: Made) -> list[str]:
    """A dataset version names slices of many deliveries: it is stale when those of now would be another."""
    from assets.training_set import slices_now
    from infra.shards import version_of

    slices = slices_now(line)
    if not any(piece.split == "train" for piece in slices):
        return []
    return ["the filtered images are others since"] if version_of(slices) != made.version else []


def _failed_checks(instance: dg.DagsterInstance, made: Mapping[str, Made]) -> dict[str, dict[str, list[str]]]:
    """Asset → severity → its checks that failed when it was last made, or since."""
    from orchestration.definitions import defs

    keys = sorted(defs.resolve_asset_graph().asset_check_keys)
    found: dict[str, dict[str, list[str]]] = {}
    for key, record in newest_finished(instance, keys).items():
        event = record.event.dagster_event if record.event is not None else None
        one = made.get(key.asset_key.to_user_string())
        if event is None or event.event_specific_data is None or record.event is None or one is None:
            continue
        concerns = record.event.run_id == one.run or record.event.timestamp >= one.at
        verdict = event.asset_check_evaluation_data
        if concerns and not verdict.passed:
            of = found.setdefault(key.asset_key.to_user_string(), {})
            of.setdefault(verdict.severity.value, []).append(key.name)
    return {name: {severity: sorted(checks) for severity, checks in of.items()} for name, of in found.items()}


# ── automation ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _budget(line: Line, instance: dg.DagsterInstance) -> dict[str, Any]:
    from orchestration.automation.budget import paused, total

    means = asked.means(line, instance)
    spent = None if means.budget is None else total(means.spent, means.now)
    return {"allowed": means.budget, "spent": spent, "paused": paused(means.spent, means.budget, means.now)}


def _automation(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Whether the daemon lives, and each schedule and sensor: on or off."""
    from orchestration.definitions import defs

    beats = [one.timestamp for one in instance.get_daemon_heartbeats().values()]
    alive = bool(beats) and datetime.now(UTC).timestamp() - max(beats) < _DAEMON_S
    known = {state.name: state.status.value for state in instance.all_instigator_state()}
    every = [*(defs.schedules or []), *(defs.sensors or [])]
    switches = {}
    for one in every:
        default = getattr(one, "default_status", None)
        state = known.get(one.name, "DECLARED_IN_CODE")
        switches[one.name] = (
            (default is not None and default.value == "RUNNING") if state == "DECLARED_IN_CODE" else state == "RUNNING"
        )
    return {"daemon": alive, "on": sorted(name for name, on in switches.items() if on),
            "off": sorted(name for name, on in switches.items() if not on)}  # fmt: skip


def _iso(at: float | None) -> str | None:
    return plain(datetime.fromtimestamp(at, UTC)) if at else None
