"""personalized_model[subject]: one product, person or pet taught to the foundation model from a few photographs."""

import dagster as dg

from assets.about import describe
from assets.launchpad import launchpad
from assets.line import Line
from assets.training_job import launch_recipe
from infra.errors import BackdropError

subjects = dg.DynamicPartitionsDefinition(name="subjects")


@dg.asset(
    description=describe("personalized_model"),
    config_schema=launchpad("personalise"),
    partitions_def=subjects,
    deps=["autoencoder", "pretrained_dit"],
    group_name="personal",
    pool="gpu",
    kinds={"pytorch", "mlflow"},
    owners=["team:models"],
)
def personalized_model(context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]) -> dg.MaterializeResult:
    """DreamBooth, LoRA or textual inversion, as `personalise.method` says. `backdrop personalise` records the subject;
    only what was learned is kept, beside the id of the base."""
    from training.personalise.subject import read_subject
    from training.specs import PersonaliseSpec

    subject = read_subject(line.store, context.partition_key)
    if gone := line.catalog.taken_down(subject.image_ids):
        raise BackdropError(
            f"{subject.name} still has photographs that were taken down, the first {min(gone)[:12]}",
            "a takedown was interrupted: run the same command again",
        )
    return launch_recipe(
        context,
        line,
        asset="personalized_model",
        verb="personalise",
        section="personalise",
        spec=PersonaliseSpec,
        upstream={"autoencoder": ("autoencoder", "model"), "pretrained_dit": ("base", "model")},
        dataset_of="pretrained_dit",
        extra={
            "subject": subject.name,
            "word": subject.word,
            "photographs": subject.photographs,
            "image_ids": subject.image_ids,
        },
    )
