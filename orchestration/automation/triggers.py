"""The schedules and sensors: thin edges around the plan. All are off until someone turns them on in the web UI."""

import json

import dagster as dg

from assets.deliveries import deliveries, delivery_name
from assets.line import Line
from orchestration.automation import gather
from orchestration.automation.budget import paused
from orchestration.automation.jobs import ingest_job, retrain_job
from orchestration.automation.landing import listing_by_folder
from orchestration.automation.plan import MOST, Decision, Request, plan_curation, plan_early, plan_weekly

WATCHED = "watched"
"""What the catalog calls a delivery that `watch_deliveries` found."""


@dg.schedule(
    job=ingest_job,
    cron_schedule="0 1 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every night at 01:00: a run for each delivery that is not filtered as the filters are now.",
)
def nightly_curation(
    context: dg.ScheduleEvaluationContext, line: dg.ResourceParam[Line]
) -> list[dg.RunRequest] | dg.SkipReason:
    """New deliveries → curated shards."""
    decision = plan_curation(gather.deliveries(line, context.instance), gather.means(line, context.instance))
    names = [request.partition for request in decision.requests if request.partition]
    context.instance.add_dynamic_partitions(str(deliveries.name), names)
    return asked(decision)


@dg.schedule(
    job=retrain_job,
    cron_schedule="0 3 * * 6",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Saturdays at 03:00: the line after the data, if anything has changed since the models were made.",
)
def weekly_retraining(
    context: dg.ScheduleEvaluationContext, line: dg.ResourceParam[Line]
) -> list[dg.RunRequest] | dg.SkipReason:
    """The dataset version of now → whatever adopts it."""
    return asked(plan_weekly(gather.training(line, context.instance), gather.means(line, context.instance)))


@dg.sensor(
    job=retrain_job,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Every ten minutes: asks for a retraining before its week where a takedown, new data or drift does.",
)
def early_retraining(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> list[dg.RunRequest] | dg.SkipReason:
    """What does not wait for Saturday."""
    return asked(plan_early(gather.training(line, context.instance), gather.means(line, context.instance)))


def asked(decision: Decision) -> list[dg.RunRequest] | dg.SkipReason:
    """A decision as Dagster takes it: its runs, each with the reason on it, or the reason why there is none."""
    if not decision.requests:
        return dg.SkipReason(decision.text)
    return [run_request(request, decision.automation) for request in decision.requests]


def run_request(request: Request, automation: str) -> dg.RunRequest:
    """One run; Dagster starts one per run key, however often it is asked for."""
    return dg.RunRequest(
        run_key=request.key,
        job_name=request.job,
        partition_key=request.partition,
        tags=request.tags(automation),
    )


@dg.sensor(job=ingest_job, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.STOPPED)
def watch_deliveries(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """Opens a partition for each folder below the watched prefix, once its listing has stood still for a tick, and asks
    for a run of each that has had none: also of one that landed while the budget rested, or as a tick was killed."""
    watch = line.settings.watch
    if not watch:
        return dg.SkipReason("no prefix is watched: set BACKDROP_WATCH to a folder or an s3:// prefix")
    means = gather.means(line, context.instance)
    before: dict[str, str] = json.loads(context.cursor or "{}")
    rows = line.catalog.list_deliveries()
    now = listing_by_folder(watch, {delivery.name for delivery in rows})
    landed = {delivery_name(uri): uri for uri, digest in now.items() if before.get(uri) == digest}
    # The partitions first: each delivery that the catalog knows has one.
    context.instance.add_dynamic_partitions(str(deliveries.name), list(landed))
    for name, uri in landed.items():
        line.catalog.add_delivery(name, uri, WATCHED)
    unread = [delivery.name for delivery in rows if delivery.kind == WATCHED and delivery.state == "open"]
    due = gather.without_run(context.instance, [*unread, *landed])
    rest = paused(means.spent, means.budget, means.now)
    requests = [
        Request("ingest", name, f"{name}: the delivery has landed", (f"landed:{name}",), name)
        for name in ([] if rest else due[:MOST])
    ]
    return dg.SensorResult(
        run_requests=[run_request(request, "watch_deliveries") for request in requests],
        skip_reason=dg.SkipReason(f"{len(due):,} deliveries have landed, but {rest}") if due and rest else None,
        cursor=json.dumps({uri: digest for uri, digest in now.items() if delivery_name(uri) not in landed}),
    )


renew_training_set = dg.AutomationConditionSensorDefinition(
    "renew_training_set",
    target=dg.AssetSelection.assets("training_set"),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Makes a new dataset version once deliveries have been filtered and none is at work.",
)

SCHEDULES = [nightly_curation, weekly_retraining]
SENSORS = [watch_deliveries, early_retraining, renew_training_set]
