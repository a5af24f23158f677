"""Signing what jobs made, and telling jobs whom to trust: keys and the catalog stay with the assets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from infra.errors import BackdropError
from infra.jobs.spec import JobResult

if TYPE_CHECKING:
    from assets.line import Line
    from deploy.manifest import Trust

log = logging.getLogger(__name__)


def trust_of(line: Line) -> Trust:
    """The keys that the settings trust, and what the catalog knows of engines and their plans."""
    from deploy.manifest import PLAN_ASSET, CatalogRow, Trust
    from deploy.signing import open_signer, trusted_keys

    settings = line.settings
    rows = {
        model.id: CatalogRow(asset=model.asset, data_version=model.data_version, dataset_version=model.dataset_version)
        for model in line.catalog.models()
        if model.asset in ("tensorrt_engine", PLAN_ASSET)
    }
    return Trust(keys=trusted_keys(settings.trusted_keys, open_signer(settings.signing_key, settings.state)), rows=rows)


def record_plans(line: Line, result: JobResult, dataset_version: str) -> None:
    """Give the catalog a row for each plan of an engine's result, together with the engine's own.

    With what comes later (an interrupted or refused signature) it would be too late: a result that only lies in the
    store, where others may write, is believed no more.
    """
    from deploy.manifest import PLAN_ASSET

    for key, plan in result.data.get("plans", {}).items():
        line.catalog.record_model(id=plan, asset=PLAN_ASSET, data_version=key, dataset_version=dataset_version)


def seal(line: Line, result: JobResult) -> None:
    """Sign the engine of a result and its plans: bundle ids by cache key in `result.data`.

    What a trusted key has signed is left alone. Raises BackdropError for an engine that the catalog does not know: the
    row is written when the job's own result arrives. A plan without one is not signed, and the log says so.
    """
    from deploy.manifest import ENGINE, PLAN, agree, open_verified, sign_bundle
    from deploy.signing import open_signer
    from infra.bundles import open_bundle

    plans: Mapping[str, str] = result.data.get("plans", {})
    trust = trust_of(line)
    if strangers := {*plans.values()} - {*trust.rows}:
        log.error(
            "plans that the catalog has no row of are refused: %s; to have them anew, delete the engine's result and "
            "materialise tensorrt_engine",
            ", ".join(sorted(strangers)),
        )
        plans = {key: plan for key, plan in plans.items() if plan in trust.rows}
    engine = str(result.data["engine"])
    if engine not in trust.rows:
        raise BackdropError(
            f"The catalog has no row of the engine {engine[:12]}…, whose result is in the store.",
            "Use the catalog that the store belongs to, or delete the result and materialise tensorrt_engine again.",
        )
    signer = open_signer(line.settings.signing_key, line.settings.state)
    for identity, kind in [(engine, ENGINE), *((plan, PLAN) for plan in plans.values())]:
        try:
            open_verified(line.store, identity, kind, trust)
        except BackdropError:
            agree(open_bundle(line.store, identity), trust.rows.get(identity), f"The {kind} {identity[:12]}…")
            sign_bundle(line.store, identity, signer)
            open_verified(line.store, identity, kind, trust)
