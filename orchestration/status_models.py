"""Champion and challenger as `backdrop status` shows them; imports no Dagster, for a rollback must not wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestration.screen import plain

if TYPE_CHECKING:
    from assets.line import Line


def aliases(line: Line, *, mlflow_up: bool) -> dict[str, Any]:
    """Champion and challenger of the engine: by the registry, or where that is away by the ledger."""
    from deploy.registry import CHALLENGER, CHAMPION, REGISTERED_NAMES, TAINT_TAG, Registry

    name = REGISTERED_NAMES["tensorrt_engine"]
    settled = {alias: line.catalog.settled(name, alias) for alias in (CHAMPION, CHALLENGER)}
    registry = Registry(str(line.settings.mlflow_uri)) if mlflow_up else None
    if registry is not None:
        versions: dict[str, str] = registry.aliases(name)
    else:
        versions = {alias: rows[0].to_version for alias, rows in settled.items() if rows and rows[0].to_version}
    datasets = {model.id: model.dataset_version for model in line.catalog.models()}
    found: dict[str, Any] = {}
    for alias, rows in settled.items():
        version = versions.get(alias)
        if version is None:
            found[alias] = None
            continue
        row = rows[0] if rows and rows[0].to_version == version else None
        bundle = row.bundle if row is not None else ""
        tainted: list[str] = []
        if registry is not None:
            known = registry.version(name, version, f"{name}@{alias}")
            bundle = known.bundle
            tainted = [part for part in known.tags.get(TAINT_TAG, "").split("; ") if part]
        dataset = datasets.get(bundle)
        if dataset and (withdrawn := line.catalog.withdrawn(dataset)) and withdrawn not in tainted:
            tainted.append(withdrawn)
        since, by = (plain(row.at), row.who) if row is not None else (None, None)
        found[alias] = {"model": name, "version": version, "since": since, "by": by, "bundle": bundle,
                        "tainted": tainted}  # fmt: skip
    return found
