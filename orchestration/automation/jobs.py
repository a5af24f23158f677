"""The jobs that automation and people start: a delivery, the line after the data, a subject, a dataset version."""

import dagster as dg

from assets.deliveries import deliveries
from assets.personalized_model import subjects

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
    # dagster.yaml lets one run of this tag go at a time, whoever starts it.
    tags={"backdrop.line": "retrain"},
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
