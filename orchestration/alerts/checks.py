"""What asset checks say: an engine that is not good enough, pixels that were changed, a delivery that looks unlike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from assets.curation.drift import CHECKS as DRIFT
from assets.stage import latest_metadata
from deploy.specs import CHECKS as EVALUATION
from orchestration.alerts.causes import LOOK_BACK, Kind, Pages, Seen, cause, holding

GATE_SCOPE, PIXELS_SCOPE, DRIFT_SCOPE = "gate-refused:report:", "pixels:report:", "drift:"
FALLBACK_SCOPE = "fallback:report:"
REPORT, ENGINE, SHARDS = "evaluation_report", "tensorrt_engine", "filtered_shards"
SETTLE = 3.0
"""Seconds for which a check's result rests before it is read: those of one run are written one after another."""
_HISTORY = 200  # results of one check that are looked through
_PLANNED = 20  # runs in a row that may have planned a check and not come to it
_PARTITION = "dagster/partition"
_PIXELS = ("product_identity", "photographs")
_DONE = ("SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Verdict:
    """One check's newest result."""

    name: str
    passed: bool
    error: bool
    metadata: Mapping[str, Any]
    at: float
    run: str
    partition: str = ""


def report_verdicts(instance: dg.DagsterInstance, now: datetime) -> list[Verdict] | None:
    """The newest report's checks; None while they are being written."""
    found = _newest(instance, REPORT, EVALUATION)
    return None if any(now.timestamp() - one.at < SETTLE for one in found) else found


def report_causes(
    verdicts: Sequence[Verdict], made: Mapping[str, Any] | None, engine: Mapping[str, Any] | None, pages: Pages
) -> list[Seen]:
    """What the newest report says against its engine. `made`, `engine`: what the assets' pages show of the newest
    report and engine."""
    version = str((made or {}).get("data_version", "")) or max((one.run for one in verdicts), default="")
    links = {**_report_link(made), **pages.asset(REPORT)}
    failed = [one for one in verdicts if not one.passed]
    pixels = [one for one in failed if violated(one)]
    refused = [one for one in failed if one not in pixels and (one.error or one.name == "gate")]
    gate, violations, fallbacks = [], [], []
    if refused:
        names = ", ".join(one.name for one in refused)
        detail = "\n".join(f"{one.name}: {_reason(one)}" for one in refused)
        title = f"the newest engine was refused by {names}"
        gate.append(cause(Kind.GATE_REFUSED, f"{GATE_SCOPE}{version}", title, detail, _since(refused), links))
    if pixels:
        detail = "\n".join(f"{one.name}: {evidence(one.metadata)}" for one in pixels)
        title = "the newest engine has changed pixels of a product"
        violations.append(cause(Kind.PIXELS, f"{PIXELS_SCOPE}{version}", title, detail, _since(pixels), links))
    wanted, ran = (engine or {}).get("backend"), (made or {}).get("backend")
    if verdicts and wanted and ran and wanted != ran:
        detail = str((made or {}).get("fallback", "")) or "its plans were refused or could not be built there"
        title = f"the newest engine was made for {wanted} and was judged on {ran}"
        key = f"{FALLBACK_SCOPE}{version}"
        fallbacks.append(cause(Kind.FALLBACK, key, title, detail, _since(verdicts), links))
    return [holding(GATE_SCOPE, gate), holding(PIXELS_SCOPE, violations), holding(FALLBACK_SCOPE, fallbacks)]


def report(instance: dg.DagsterInstance, pages: Pages, now: datetime) -> list[Seen]:
    """The newest report, looked at."""
    verdicts = report_verdicts(instance, now)
    if verdicts is None:
        return []
    return report_causes(verdicts, latest_metadata(instance, REPORT), latest_metadata(instance, ENGINE), pages)


def violated(one: Verdict) -> bool:
    """Whether it says that a product's pixels were changed, and not only that nothing was measured."""
    identical = one.metadata.get("identical")
    return one.name in _PIXELS and isinstance(identical, (int, float)) and identical < 1.0


def drift(instance: dg.DagsterInstance, pages: Pages, memory: Mapping[str, Any], now: datetime) -> list[Seen]:
    """Deliveries whose newest comparison with those before them has failed."""
    # A result is written into the row that its run has planned, so no row's number tells of it; an event's does.
    mark = instance.event_log_storage.get_maximum_record_id() or 0
    if mark == memory.get("mark"):
        return []
    first = float(memory.get("first") or (now - LOOK_BACK).timestamp())
    verdicts = [one for name in DRIFT for one in _history(instance, SHARDS, name) if one.at >= first]
    if any(now.timestamp() - one.at < SETTLE for one in verdicts):
        return []
    verdicts = _with_deliveries(instance, verdicts)
    seen = drift_causes(verdicts, pages)
    # Who was not looked at this time, because hundreds were filtered since, drifts as before.
    looked = {f"{DRIFT_SCOPE}{one.partition}" for one in verdicts}
    current = (seen.current or frozenset()) | (frozenset(memory.get("open", ())) - looked)
    return [replace(seen, current=current, memory={"mark": mark, "first": first, "open": sorted(current)})]


def _with_deliveries(instance: dg.DagsterInstance, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """A check's result that came with a materialisation says its delivery only by its run."""
    wanted = sorted({one.run for one in verdicts if not one.partition})
    runs = instance.get_runs(dg.RunsFilter(run_ids=wanted)) if wanted else []
    deliveries = {run.run_id: run.tags.get(_PARTITION, "") for run in runs}
    return [one if one.partition else replace(one, partition=deliveries.get(one.run, "")) for one in verdicts]


def drift_causes(verdicts: Collection[Verdict], pages: Pages, memory: Mapping[str, Any] | None = None) -> Seen:
    """One cause per delivery, from results of which the newest of each check counts."""
    newest: dict[tuple[str, str], Verdict] = {}
    for one in sorted(verdicts, key=lambda one: one.at):
        newest[one.partition, one.name] = one
    drifted: dict[str, list[Verdict]] = defaultdict(list)
    for (delivery, _), one in newest.items():
        if not one.passed:
            drifted[delivery].append(one)
    causes = []
    for delivery, failed in drifted.items():
        title = f"delivery {delivery} looks unlike those before: {', '.join(sorted(one.name for one in failed))}"
        detail = "\n".join(f"{one.name}: {evidence(one.metadata)}" for one in failed)
        links = {**pages.asset(SHARDS, delivery), **pages.run(failed[0].run)}
        causes.append(cause(Kind.DRIFT, f"{DRIFT_SCOPE}{delivery}", title, detail, _since(failed), links))
    return holding(DRIFT_SCOPE, causes, memory)


def _report_link(made: Mapping[str, Any] | None) -> dict[str, str]:
    found = (made or {}).get("file: report")
    return {"report": str(found)} if found else {}


def _reason(one: Verdict) -> str:
    return str(one.metadata.get("reason") or evidence(one.metadata))


def _since(verdicts: Collection[Verdict]) -> datetime:
    return datetime.fromtimestamp(min(one.at for one in verdicts), UTC)


def _keys(asset: str, names: Sequence[str]) -> list[dg.AssetCheckKey]:
    return [dg.AssetCheckKey(dg.AssetKey(asset), name) for name in names]


def _newest(instance: dg.DagsterInstance, asset: str, names: Sequence[str]) -> list[Verdict]:
    storage, keys = instance.event_log_storage, _keys(asset, names)
    found = []
    for key, record in storage.get_latest_asset_check_execution_by_key(keys).items():
        if record.status.value in _DONE:
            found.append(_verdict(record))
        else:  # planned by a run that may never come to it: the result before it counts
            found += _history(instance, asset, key.name, _PLANNED)[:1]
    there = [one for one in found if one is not None]
    return sorted(there, key=lambda one: names.index(one.name))


def _history(instance: dg.DagsterInstance, asset: str, name: str, limit: int = _HISTORY) -> list[Verdict]:
    """A check's results, newest first."""
    key = _keys(asset, [name])[0]
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=limit)
    return [found for one in records if one.status.value in _DONE and (found := _verdict(one)) is not None]


def _verdict(record: Any) -> Verdict | None:
    """Of Dagster's AssetCheckExecutionRecord, which it does not export."""
    found = record.evaluation
    if found is None or record.event is None:
        return None
    metadata = {name: value.value for name, value in found.metadata.items()}
    error = found.severity == dg.AssetCheckSeverity.ERROR
    partition = record.partition or getattr(found, "partition", None) or ""
    return Verdict(
        found.check_name, found.passed, error, metadata, record.event.timestamp, record.run_id or "", partition
    )


def evidence(metadata: Mapping[str, Any]) -> str:
    """A check's numbers in one line; tables are left to its page."""
    told = {name: value for name, value in metadata.items() if not isinstance(value, (list, dict))}
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in told.items()}
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
