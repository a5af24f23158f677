"""What starts the line without a person: its jobs, a nightly schedule and a sensor for new deliveries.

Both are off until someone turns them on in the web UI.
"""

import json

import dagster as dg

from assets.deliveries import deliveries, delivery_name
from assets.line import Line
from assets.personalized_model import subjects
from infra.files import canonical_json, sha256_bytes

INGEST = ["raw_images", "filtered_shards"]
PERSONAL = ["personalized_model"]

ingest_job = dg.define_asset_job(
    "ingest",
    selection=dg.AssetSelection.assets(*INGEST),
    partitions_def=deliveries,
    description="One delivery: raw pictures into the catalog, filtered shards out.",
)
retrain_job = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets(*INGEST, *PERSONAL),
    description="The whole line after the data: dataset version, models, engine, report, promotion.",
)
personalise_job = dg.define_asset_job(
    "personalise",
    selection=dg.AssetSelection.assets(*PERSONAL),
    partitions_def=subjects,
    description="One subject, taught to the newest pretrained model from a few photographs.",
)
training_set_job = dg.define_asset_job(
    "renew_training_set",
    selection=dg.AssetSelection.assets("training_set"),
    description="Only the dataset version: what a takedown ends with.",
)
nightly_retraining = dg.ScheduleDefinition(
    name="nightly_retraining",
    job=retrain_job,
    cron_schedule="0 2 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every night at 02:00. Stages whose inputs have not changed are not run again.",
)


@dg.sensor(job=ingest_job, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.STOPPED)
def watch_deliveries(
    context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]
) -> dg.SensorResult | dg.SkipReason:
    """Opens a partition for each folder below the watched prefix, once its listing has stood still for a tick."""
    watch = line.settings.watch
    if not watch:
        return dg.SkipReason("no prefix is watched: set BACKDROP_WATCH to a folder or an s3:// prefix")
    before: dict[str, str] = json.loads(context.cursor or "{}")
    now = listing_by_folder(watch)
    known = {delivery.name for delivery in line.catalog.list_deliveries()}
    landed = {
        delivery_name(uri): uri
        for uri, digest in now.items()
        if before.get(uri) == digest and delivery_name(uri) not in known
    }
    for name, uri in landed.items():
        line.catalog.add_delivery(name, uri, "watched")
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=name, partition_key=name) for name in landed],
        dynamic_partitions_requests=[deliveries.build_add_request(list(landed))] if landed else [],
        cursor=json.dumps(now),
    )


def listing_by_folder(prefix: str) -> dict[str, str]:
    """Each folder directly below `prefix`, with the hash of its listing."""
    from infra.object_store import list_uri

    root = prefix.rstrip("/") + "/"
    members: dict[str, list[str]] = {}
    for uri in list_uri(prefix):
        rest = uri.removeprefix(root) if uri.startswith(root) else uri.split("://", 1)[-1].removeprefix(root)
        if "/" in rest:
            members.setdefault(root + rest.split("/", 1)[0], []).append(rest)
    return {folder: sha256_bytes(canonical_json(sorted(names))) for folder, names in members.items()}
