"""The commands of `orchestration.promoting` as Dagster jobs, for those who work in the web UI.

The page knows no identity: who has to sign pastes a token that `backdrop sign` made on his own machine.
"""

from dataclasses import replace

import dagster as dg
from pydantic import Field

from assets.line import Line
from assets.promotion import as_recorded
from orchestration.promoting import ENGINE, IN_DAGSTER, MOST_ROWS, Command, carry_out


class Asked(dg.Config):
    """What the launchpad asks for; unknown keys are refused."""

    model: str = ENGINE
    version: str = ""
    reason: str = IN_DAGSTER
    actor: str = ""
    token: str = ""


class AskedWhy(Asked):
    """A no has to have a reason."""

    reason: str


class AskedBack(dg.Config):
    """For a rollback: `row` of the ledger, or the last other champion."""

    model: str = ENGINE
    row: int | None = None
    reason: str = IN_DAGSTER
    actor: str = ""
    token: str = ""


class AskedOfLedger(dg.Config):
    """Whose rows, and how many."""

    model: str = ENGINE
    limit: int = Field(50, ge=1, le=MOST_ROWS)


def _judging(action: str, description: str) -> dg.JobDefinition:
    @dg.op(name=f"{action}_version")
    def version_op(context: dg.OpExecutionContext, config: Asked, line: dg.ResourceParam[Line]) -> None:
        command = Command(action, config.model, config.version, None, config.reason, config.actor, token=config.token)
        _carry_out(context, line, command)

    @dg.job(name=action, description=description)
    def version_job() -> None:
        version_op()

    return version_job


@dg.op
def reject_version(context: dg.OpExecutionContext, config: AskedWhy, line: dg.ResourceParam[Line]) -> None:
    """The challenger's alias goes, the row stays."""
    command = Command("reject", config.model, config.version, None, config.reason, config.actor, token=config.token)
    _carry_out(context, line, command)


@dg.job(name="reject", description="A human's no: the version is challenger no longer, and is not promoted.")
def reject_job() -> None:
    """One op."""
    reject_version()


@dg.op
def roll_back(context: dg.OpExecutionContext, config: AskedBack, line: dg.ResourceParam[Line]) -> None:
    """Nothing is rebuilt: an alias goes back."""
    command = Command("rollback", config.model, "", config.row, config.reason, config.actor, token=config.token)
    _carry_out(context, line, command)


@dg.job(name="rollback", description="The champion before this one, or that of a row of the ledger, is champion again.")
def rollback_job() -> None:
    """One op."""
    roll_back()


@dg.op
def read_ledger(context: dg.OpExecutionContext, config: AskedOfLedger, line: dg.ResourceParam[Line]) -> None:
    """The rows as a table on the run's page."""
    from deploy.promotion import history
    from deploy.registry import Registry

    rows = history(Registry(line.tracking.uri), line.catalog, config.model, config.limit)
    lines = ["| row | when | what | from | to | who | why |", "|---|---|---|---|---|---|---|"]
    for one in rows:
        cells = (one.id, one.at, one.kind, one.from_version or "", one.to_version or "", one.who, one.reason)
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    context.add_output_metadata({"ledger": dg.MetadataValue.md("\n".join(lines)), "rows": len(rows)})


@dg.job(name="history", description="The promotion ledger of a model, newest first.")
def history_job() -> None:
    """One op."""
    read_ledger()


PROMOTION_JOBS = [
    _judging("promote", "Make a version champion; without one, the challenger."),
    _judging("approve", "A human's yes to a version, where the policy asks for one."),
    reject_job,
    rollback_job,
    history_job,
]

promote_when_approved = dg.AutomationConditionSensorDefinition(
    "promote_when_approved",
    target=dg.AssetSelection.assets("promotion"),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Materialises promotion once a human has approved the newest engine.",
)


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Writes down an alias that was moved outside the ledger, and fails promotion's check for it.",
)
def watch_champion(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """MLflow tells nobody who moved an alias, so somebody has to look."""
    from deploy.reconciliation import reconcile
    from deploy.registry import Registry

    noticed = reconcile(Registry(line.tracking.uri), line.catalog, ENGINE)
    check = as_recorded(noticed)
    if check.passed:
        return dg.SkipReason("the aliases are where the ledger says")
    context.log.warning("an alias was moved by hand: %s", check.metadata["moved"])
    seen = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("promotion"),
        check_name=check.name,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=check.metadata,
    )
    return dg.SensorResult(asset_events=[seen])


def _carry_out(context: dg.OpExecutionContext, line: Line, command: Command) -> None:
    answer = carry_out(line, replace(command, run=context.run.run_id))
    for entry in answer.noticed:
        context.log.warning("%s: from %s to %s", entry.kind, entry.from_version or "none", entry.to_version or "none")
    context.log.info(answer.said)
    row = {"ledger_row": answer.entry.id, "who": answer.entry.who} if answer.entry else {}
    context.add_output_metadata({"outcome": answer.said, **row})
