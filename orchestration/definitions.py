"""The one entry that Dagster loads: the lineage, its jobs, its schedules and its sensors."""

from __future__ import annotations

import dagster as dg

from assets.autoencoder import autoencoder
from assets.distilled_model import distilled_model
from assets.evaluation_report import evaluation_report
from assets.filtered_shards import filtered_shards
from assets.inpainting_finetune import inpainting_finetune
from assets.latent_shards import latent_shards
from assets.line import Line
from assets.personalized_model import personalized_model
from assets.pretrained_dit import pretrained_dit
from assets.promotion import human_approval, promotion
from assets.raw_images import raw_images
from assets.tensorrt_engine import tensorrt_engine
from assets.training_set import training_set
from orchestration.alerts.sensor import alerts
from orchestration.automation import (
    SCHEDULES,
    SENSORS,
    ingest_job,
    personalise_job,
    retrain_job,
    training_set_job,
)
from orchestration.promotion_jobs import PROMOTION_JOBS, promote_when_approved, watch_champion
from orchestration.reaping import job_reaper

#: In lineage order.
LINEAGE = [
    raw_images,
    filtered_shards,
    training_set,
    autoencoder,
    latent_shards,
    pretrained_dit,
    inpainting_finetune,
    distilled_model,
    tensorrt_engine,
    evaluation_report,
    promotion,
    personalized_model,
]

defs = dg.Definitions(
    assets=LINEAGE,
    asset_checks=[human_approval],
    jobs=[ingest_job, retrain_job, training_set_job, personalise_job, *PROMOTION_JOBS],
    schedules=SCHEDULES,
    sensors=[*SENSORS, job_reaper, promote_when_approved, watch_champion, alerts],
    resources={"line": Line()},
    # The stages follow one another and each wants the whole machine: a process per step would only add imports.
    executor=dg.in_process_executor,
)
