"""What starts the line without a person, and the plan that says what it would do and why.

plan       from what is known to decisions; pure        gather     asks catalog, store and instance for it
triggers   schedules and sensors around the plan        jobs       what they and people start
"""

from orchestration.automation.jobs import ingest_job, personalise_job, retrain_job, training_set_job
from orchestration.automation.triggers import SCHEDULES, SENSORS

__all__ = ["SCHEDULES", "SENSORS", "ingest_job", "personalise_job", "retrain_job", "training_set_job"]
