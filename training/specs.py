"""The specs of the training room's jobs: all that a recipe knows about its run. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infra.jobs.spec import JobSpec
from training.presets.sections import (
    AutoencoderSection,
    DistilSection,
    DiTSection,
    FinetuneSection,
    LatentsSection,
    PersonaliseSection,
    PretrainSection,
    Section,
    most_ranks,
)


class TrainingSpec(JobSpec):
    """A job that trains: in as many processes as its stages ask for."""

    @property
    def processes(self) -> int:
        config = getattr(self, "config", None)
        return most_ranks(config) if isinstance(config, Section) else 1


class AutoencoderSpec(TrainingSpec):
    """Train the autoencoder on one dataset version. Result data: {"model": bundle id}, and {"masked_decoder": bundle
    id} if the section has one."""

    dataset: str
    image_size: int
    config: AutoencoderSection
    seed: int


class SweepSpec(AutoencoderSpec):
    """One autoencoder per factor and count of latent channels, otherwise as `config` says. Result data: {"sweep": rows
    of what each loses, "table": the same as text}.
    """

    factors: tuple[Literal[4, 8, 16, 32], ...] = Field((4, 8, 16, 32), min_length=1)
    latent_channels: tuple[int, ...] = Field((8,), min_length=1)


class LatentsSpec(JobSpec):
    """Encode images, masks and captions once, or say from what to encode them. Result data: {"latents": store key of a
    listing, "encoded": images, "reused": images}."""

    dataset: str
    image_size: int
    autoencoder: str
    text_encoder: str | None
    config: LatentsSection
    seed: int


class FlowSpec(TrainingSpec):
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


class PersonaliseSpec(TrainingSpec):
    """Teach a trained transformer one subject. Result data: {"model": bundle id of what was learned, "phrase"}."""

    base: str
    autoencoder: str
    text_encoder: str | None
    dataset: str = Field(description="the version that the base was trained on, for the record")
    subject: str
    word: str = Field(description="the class it belongs to, such as mug")
    photographs: tuple[str, ...] = Field(min_length=1, description="store keys")
    image_ids: tuple[str, ...] = Field(description="all that the photographs go by, for takedowns")
    image_size: int
    config: PersonaliseSection
    seed: int
