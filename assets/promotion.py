"""promotion: the engine becomes the challenger, and the champion when its checks pass."""

import dagster as dg

from assets.line import Line
from assets.stage import commit_result, upstream_of
from assets.versions import data_version
from infra.jobs.spec import JobResult


@dg.asset(
    deps=["tensorrt_engine", "evaluation_report"],
    group_name="shipping",
    kinds={"mlflow"},
    owners=["team:serving"],
)
def promotion(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """Moves the aliases `@challenger` and `@champion` in the model registry."""
    from deploy.registry import REGISTERED_NAMES, Registry

    engine = upstream_of(context, line, "tensorrt_engine")
    report = upstream_of(context, line, "evaluation_report")
    bundle = str(engine.result.data["engine"])
    failed = sorted(check.name for check in report.result.checks if not check.passed and check.severity == "error")
    name = REGISTERED_NAMES["tensorrt_engine"]
    registry = Registry(str(line.settings.mlflow_uri))
    outcome = registry.promote(name, bundle, checks_passed=not failed)
    version = data_version(
        "deploy.registry", upstream={"engine": engine.data_version, "report": report.data_version}, config={}
    )
    result = JobResult(
        metadata={
            "model": name,
            "model_version": outcome.version,
            "champion": outcome.champion,
            "failed_checks": ", ".join(failed) or "none",
        },
        data={"version": outcome.version, "promoted": not failed},
    )
    return commit_result(context, line, "promotion", version, result)
