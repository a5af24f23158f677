"""promotion: the engine becomes the challenger, and the champion when its checks, the gate and the policy agree."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.about import describe, tags_of
from assets.check_words import asks
from assets.line import Line
from assets.stage import (
    Upstream,
    commit_result,
    latest_metadata,
    may_be_copied,
    output_prefix,
    register_shown,
    upstream_of,
)
from assets.versions import data_version
from infra.errors import BackdropError, ServiceError
from infra.jobs.spec import Check, JobResult

if TYPE_CHECKING:
    from deploy.registry import ModelVersion, Registry
    from infra.catalog.ledger import Entry

AS_RECORDED, HUMAN_APPROVAL, CHAMPION_CLEAN = "alias_as_recorded", "human_approval", "champion_clean"
CARD_STAGES = ("autoencoder", "pretrained_dit", "inpainting_finetune", "distilled_model", "tensorrt_engine")
LINE = "the line"
"""The actor where no human asked."""


@dg.asset(
    description=describe("promotion"),
    tags=tags_of("promotion"),
    deps=["tensorrt_engine", "evaluation_report"],
    group_name="shipping",
    kinds={"mlflow"},
    owners=["team:serving"],
    # A champion that nothing has challenged for weeks is a line that stands still.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=28), warn_window=timedelta(days=14)),
    check_specs=[
        dg.AssetCheckSpec(AS_RECORDED, asset="promotion", description=asks(AS_RECORDED)),
        dg.AssetCheckSpec(CHAMPION_CLEAN, asset="promotion", description="the champion saw nothing taken down since"),
    ],
    # A yes to the newest engine is what the promotion may be waiting for; no other check's result is. The sensor that
    # acts on it is off by default.
    automation_condition=dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_passed().newly_true()).allow(
            dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("tensorrt_engine"), HUMAN_APPROVAL))
        )
    ).since_last_handled(),
)
def promotion(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """Moves the aliases `@challenger`, `@champion` and `@previous` in the model registry, and writes down why."""
    from deploy.promotion import nominate
    from deploy.registry import CHAMPION, PREVIOUS, REGISTERED_NAMES, Registry

    engine = upstream_of(context, line, "tensorrt_engine")
    report = upstream_of(context, line, "evaluation_report")
    name, bundle = REGISTERED_NAMES["tensorrt_engine"], str(engine.result.data["engine"])
    registry = Registry(str(line.settings.mlflow_uri))
    found = registry.find(name, bundle)
    if found is None:
        raise BackdropError(
            f"No version of {name} holds bundle {bundle[:12]}….", "Materialise tensorrt_engine, which registers it."
        )
    if report.result.data["engine"] != bundle:
        raise BackdropError(
            f"The newest report judges engine {str(report.result.data['engine'])[:12]}…, the newest engine is "
            f"{bundle[:12]}….",
            "Materialise evaluation_report, then promotion.",
        )
    noticed = nominate(registry, line.catalog, name, found.version)
    failed = sorted(check.name for check in report.result.checks if not check.passed and check.severity == "error")
    why = f"failed {', '.join(failed)}" if failed else ""
    if not why:
        why = _promote(line, registry, found.version, report, context.run.run_id)
    aliases = registry.aliases(name)
    clean = champion_clean(registry.get_alias(name, CHAMPION))
    version = data_version(
        "deploy.promotion", upstream={"engine": engine.data_version, "report": report.data_version}, config={}
    )
    card, shows = _write_card(context, line, registry, registry.version(name, found.version), report, version)
    result = JobResult(
        metadata={
            "model": name,
            "model_version": found.version,
            "champion": aliases.get(CHAMPION, "none"),
            "tainted": clean.metadata["tainted"],
            "previous": aliases.get(PREVIOUS, "none"),
            "outcome": why or "champion",
            "failed_checks": ", ".join(failed) or "none",
        },
        data={"version": found.version, "promoted": aliases.get(CHAMPION) == found.version},
        checks=[as_recorded(noticed), clean],
        files={"model card": card},
        shows={card: shows},
    )
    return commit_result(context, line, "promotion", version, result)


@dg.asset_check(asset="tensorrt_engine", name=HUMAN_APPROVAL, description="a human has said yes to this very engine")
def human_approval(context: dg.AssetCheckExecutionContext, line: dg.ResourceParam[Line]) -> dg.AssetCheckResult:
    """Another checkpoint is another engine: it needs a yes of its own. Where no policy asks for one, it only warns."""
    from deploy.approvals import approvers
    from deploy.promotion import approved
    from deploy.registry import REGISTERED_NAMES

    made = latest_metadata(context.instance, "tensorrt_engine")
    if made is None or not line.store.exists(str(made["result"])):
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"note": "no engine"})
    bundle = JobResult.model_validate_json(line.store.get(str(made["result"]))).data["engine"]
    judged = line.catalog.judgement(REGISTERED_NAMES["tensorrt_engine"], str(bundle))
    return dg.AssetCheckResult(
        passed=approved(judged, approvers(line.settings.approvers)),
        severity=dg.AssetCheckSeverity.WARN,
        metadata=judgement_metadata(judged) | {"policy": line.settings.approval},
    )


def judgement_metadata(judged: "Entry | None") -> dict[str, Any]:
    """What a check's page says of an approval or a rejection."""
    if judged is None:
        return {"note": "nobody has judged this engine: `backdrop approve`"}
    return {"judged": judged.kind, "by": judged.who, "reason": judged.reason, "ledger_row": judged.id}


def _promote(line: Line, registry: "Registry", version: str, report: Upstream, run: str) -> str:
    """Why the version is not champion; empty when it is."""
    from deploy.approvals import Actor, approvers
    from deploy.promotion import Request, promote
    from deploy.registry import CHAMPION, REGISTERED_NAMES

    name, found = REGISTERED_NAMES["tensorrt_engine"], report.result.data
    decision: Mapping[str, Any] | None = found.get("decision")
    champion = registry.aliases(name).get(CHAMPION)
    if champion == version:
        return ""
    if decision is not None and not decision["promote"]:
        return str(decision["reason"])
    if any(row.to_version == version for row in line.catalog.settled(name, CHAMPION)):
        return "it was champion and was replaced: `backdrop promote` makes it champion again"
    judged = registry.find(name, found["champion"]) if found.get("champion") else None
    request = Request(
        name, version, Actor(LINE), decision["reason"] if decision else "the first champion: its checks have passed",
        evidence={"report": report.result_key, **({"gate": decision["evidence"]} if decision else {})}, run=run,
        against=judged.version if judged else "none", approval=line.settings.approval == "required",
        approvers=approvers(line.settings.approvers),
    )  # fmt: skip
    try:
        promote(registry, line.catalog, request)
    except ServiceError:
        raise
    except BackdropError as error:  # it is in the ledger, and the champion stays
        return str(error.what)
    return ""


def _write_card(
    context: dg.AssetExecutionContext,
    line: Line,
    registry: "Registry",
    version: "ModelVersion",
    report: Upstream,
    data_version: str,
) -> tuple[str, list[str]]:
    """The version's model card: its page's key, and the delivered images that can be seen there."""
    from deploy.model_card import FAILURES, gather, markdown, page
    from infra.mlflow_runs import MlflowRuns

    results = {}
    for asset in CARD_STAGES:
        if latest_metadata(context.instance, asset) is not None:
            results[asset] = upstream_of(context, line, asset).result
    made = latest_metadata(context.instance, "tensorrt_engine") or {}
    cost = {name.removeprefix("lineage_"): float(value) for name, value in made.items() if name.startswith("lineage_")}
    card = gather(line.store, line.catalog, version, report.result, results, cost)
    key, html = f"{output_prefix('promotion', data_version, None)}/model-card.html", page(card).encode()
    shows = report.result.shows.get(report.result.pictures.get(FAILURES, ""), [])
    line.store.put(key, html)
    register_shown(line, {key: shows})  # at once: what follows may fail, and a takedown must find the page
    registry.describe(version.name, version.version, markdown(card))
    registry.tag(version.name, version.version, {"backdrop.model_card": f"{line.store.uri}/{key}"})
    if version.run and may_be_copied(line, shows):
        MlflowRuns(str(line.settings.mlflow_uri)).add_artifact(version.run, PurePosixPath("model-card.html"), html)
    return key, shows


def champion_clean(champion: "ModelVersion | None") -> Check:
    """Whether the champion has seen nothing that was taken down since, and which takedowns it has not heard of."""
    from deploy.registry import TAINT_TAG

    tainted = champion.tags.get(TAINT_TAG, "") if champion else ""
    who = {"champion": champion.version if champion else "none"}
    return Check(name=CHAMPION_CLEAN, passed=not tainted, severity="warn", metadata=who | {"tainted": tainted or "no"})


def as_recorded(noticed: "list[Entry]") -> Check:
    """Whether the ledger had known where the alias was."""
    moved = [entry for entry in noticed if entry.kind == "found"]
    said = [f"from {entry.from_version or 'none'} to {entry.to_version or 'none'}" for entry in moved]
    return Check(name=AS_RECORDED, passed=not moved, severity="warn", metadata={"moved": "; ".join(said) or "none"})
