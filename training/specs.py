"""The specs of the training room's jobs: all that a recipe knows about its run. Importable without torch."""

from __future__ import annotations

from infra.jobs.spec import JobSpec
from training.presets.sections import (
    AutoencoderSection,
    DistilSection,
    DiTSection,
    FinetuneSection,
    LatentsSection,
    PretrainSection,
)


class AutoencoderSpec(JobSpec):
    """Train the autoencoder on one dataset version. Result data: {"model": bundle id}."""

    dataset: str
    image_size: int
    config: AutoencoderSection
    seed: int


class LatentsSpec(JobSpec):
    """Encode images, masks and captions once. Result data: {"latents": store key, "encoded", "reused"}."""

    dataset: str
    image_size: int
    autoencoder: str
    text_encoder: str | None
    config: LatentsSection
    seed: int


class FlowSpec(JobSpec):
    """What pretraining, fine-tuning and distillation have in common. Result data: {"model": bundle id}."""

    dataset: str
    latents: str
    autoencoder: str
    text_encoder: str | None
    image_size: int
    seed: int


class PretrainSpec(FlowSpec):
    dit: DiTSection
    config: PretrainSection


class FinetuneSpec(FlowSpec):
    base: str
    config: FinetuneSection


class DistilSpec(FlowSpec):
    teacher: str
    config: DistilSection
