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
from orchestration.check_results import newest_finished, results_since

GATE_SCOPE, PIXELS_SCOPE, DRIFT_SCOPE = "gate-refused:report:", "pixels:report:", "drift:"
FALLBACK_SCOPE = "fallback:report:"
REPORT, ENGINE, SHARDS = "evaluation_report", "tensorrt_engine", "filtered_shards"
SETTLE = 3.0
"""Seconds for which a check's result rests before it is read: those of one run are written one after another."""
_PIXELS = ("product_identity", "photographs")


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
    """Deliveries whose newest comparison with those before them has failed.

    memory: mark      the newest event at the last look
            before    at the look before it: what is read begins there, since an event's number is given before it can
                      be seen
            failing   delivery → the checks that its newest results failed
    """
    mark = instance.event_log_storage.get_maximum_record_id() or 0
    if mark == memory.get("mark"):
        return []
    first = float(memory.get("first") or (now - LOOK_BACK).timestamp())
    verdicts = _drift_verdicts(instance, int(memory.get("before", 0)), first)
    if any(now.timestamp() - one.at < SETTLE for one in verdicts):
        return []
    verdicts = _with_deliveries(instance, verdicts)
    # Who was not compared since drifts as before.
    failing = {delivery: set(names) for delivery, names in memory.get("failing", {}).items()}
    for one in _newest_of_each(verdicts):
        names = failing.setdefault(one.partition, set())
        (names.discard if one.passed else names.add)(one.name)
    failing = {delivery: names for delivery, names in failing.items() if names}
    remembered = {
        "mark": mark,
        "before": int(memory.get("mark", 0)),
        "first": first,
        "failing": {delivery: sorted(names) for delivery, names in sorted(failing.items())},
    }
    current = frozenset(f"{DRIFT_SCOPE}{delivery}" for delivery in failing)
    return [replace(drift_causes(verdicts, pages), current=current, memory=remembered)]


def _drift_verdicts(instance: dg.DagsterInstance, after: int, first: float) -> list[Verdict]:
    found = []
    for entry in results_since(instance, after, first):
        event = entry.dagster_event
        result = event.asset_check_evaluation_data if event is not None else None
        if result is not None and result.asset_key == dg.AssetKey(SHARDS) and result.check_name in DRIFT:
            found.append(_verdict(result, entry.timestamp, entry.run_id))
    return found


def _with_deliveries(instance: dg.DagsterInstance, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """A check's result that came with a materialisation says its delivery only by its run."""
    from orchestration.automation.gather import partition_of

    wanted = sorted({one.run for one in verdicts if not one.partition})
    runs = instance.get_runs(dg.RunsFilter(run_ids=wanted)) if wanted else []
    deliveries = {run.run_id: partition_of(run.tags) for run in runs}
    return [one if one.partition else replace(one, partition=deliveries.get(one.run, "")) for one in verdicts]


def drift_causes(verdicts: Collection[Verdict], pages: Pages) -> Seen:
    """One cause per delivery, from results of which the newest of each check counts."""
    drifted: dict[str, list[Verdict]] = defaultdict(list)
    for one in _newest_of_each(verdicts):
        if not one.passed:
            drifted[one.partition].append(one)
    causes = []
    for delivery, failed in drifted.items():
        title = f"delivery {delivery} looks unlike those before: {', '.join(sorted(one.name for one in failed))}"
        detail = "\n".join(f"{one.name}: {evidence(one.metadata)}" for one in failed)
        links = {**pages.asset(SHARDS, delivery), **pages.run(failed[0].run)}
        causes.append(cause(Kind.DRIFT, f"{DRIFT_SCOPE}{delivery}", title, detail, _since(failed), links))
    return holding(DRIFT_SCOPE, causes)


def _newest_of_each(verdicts: Collection[Verdict]) -> list[Verdict]:
    """The newest of each delivery and check."""
    return list({(one.partition, one.name): one for one in sorted(verdicts, key=lambda one: one.at)}.values())


def _report_link(made: Mapping[str, Any] | None) -> dict[str, str]:
    found = (made or {}).get("file: report")
    return {"report": str(found)} if found else {}


def _reason(one: Verdict) -> str:
    return str(one.metadata.get("reason") or evidence(one.metadata))


def _since(verdicts: Collection[Verdict]) -> datetime:
    return datetime.fromtimestamp(min(one.at for one in verdicts), UTC)


def _newest(instance: dg.DagsterInstance, asset: str, names: Sequence[str]) -> list[Verdict]:
    keys = [dg.AssetCheckKey(dg.AssetKey(asset), name) for name in names]
    found = newest_finished(instance, keys)
    return [
        _verdict(record.evaluation, record.event.timestamp, record.run_id or "", record.partition)
        for record in (found[key] for key in keys if key in found)
        if record.evaluation is not None and record.event is not None
    ]


def _verdict(result: dg.AssetCheckEvaluation, at: float, run: str, partition: str | None = None) -> Verdict:
    metadata = {name: value.value for name, value in result.metadata.items()}
    error = result.severity == dg.AssetCheckSeverity.ERROR
    return Verdict(result.check_name, result.passed, error, metadata, at, run, partition or result.partition or "")


def evidence(metadata: Mapping[str, Any]) -> str:
    """A check's numbers in one line; tables are left to its page."""
    told = {name: value for name, value in metadata.items() if not isinstance(value, (list, dict))}
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in told.items()}
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
