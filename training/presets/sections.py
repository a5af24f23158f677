"""The typed settings of every stage, with the defaults that all presets share.

Importable without torch: orchestration builds specs from these. A preset file only names what differs.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Frozen settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OptimiserSection(Section):
    """What every training loop needs: AdamW with warm-up and cosine decay, EMA, checkpoints and logging."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(0.02, ge=0, le=1, description="share of the peak left at the last step")
    warmup: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    ema: float = Field(0.998, ge=0, lt=1, description="decay per step; 0 keeps no average")
    log_every: int = Field(10, ge=1, description="steps between metrics")
    sample_every: int = Field(0, ge=0, description="steps between sample grids; 0: only at the end")
    save_seconds: float = Field(25.0, gt=0, description="wall seconds between checkpoints")


class AutoencoderSection(OptimiserSection):
    """A KL autoencoder (latent diffusion, Rombach et al. 2022) small enough for two cores."""

    factor: int = Field(8, description="pixels per latent cell along one side")
    latent_channels: int = Field(8, ge=1)
    width: int = Field(96, ge=8, description="channels at the working resolution")
    depth: int = Field(3, ge=1, description="residual blocks at the working resolution, on either side")
    kl_weight: float = Field(1e-4, ge=0)
    gradient_weight: float = Field(0.5, ge=0, description="weight of the L1 between image gradients")
    crop: int | None = Field(None, description="train on random crops of this side; None: whole images")


class LatentsSection(Section):
    """What is computed once per image before the transformer trains."""

    batch_size: int = Field(64, ge=1)
    text_length: int = Field(32, ge=4, description="text tokens kept per caption, padding included")
    captions: int = Field(4, ge=1, description="captions kept per image")
    random_masks: int = Field(3, ge=1, description="random masks per image, beside the product mask")


class DiTSection(Section):
    """The transformer's shape."""

    width: int = Field(256, ge=16)
    depth: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)
    patch: int = Field(2, ge=1)
    mlp_ratio: float = Field(3.0, gt=0)


class FlowSection(OptimiserSection):
    """A recipe that learns the flow's velocity."""

    text_dropout: float = Field(0.1, ge=0, le=1)
    hole_weight: float = Field(0.9, ge=0, le=1, description="share of the loss that lies in the hole")
    # What the hole holds is settled near t = 1: centred times (0, 1) need twice the steps for the same colours.
    time_mean: float = Field(1.0, description="of the logit-normal times; above 0 is noisier")
    time_std: float = Field(1.3, gt=0)


class PretrainSection(FlowSection):
    product_share: float = Field(0.5, ge=0, le=1, description="samples whose hole is everything but the product")
    empty_share: float = Field(0.1, ge=0, le=1, description="samples masked entirely: plain text to image")


class RandomStageSection(FlowSection):
    product_share: float = Field(0.3, ge=0, le=1)
    empty_share: float = Field(0.05, ge=0, le=1)


class ProductStageSection(FlowSection):
    rank: int = Field(16, ge=1, description="LoRA rank")
    scale: float = Field(1.0, gt=0, description="LoRA's alpha / rank")


class FinetuneSection(Section):
    random_masks: RandomStageSection = RandomStageSection()
    product_masks: ProductStageSection = ProductStageSection()


class DistilSection(FlowSection):
    """Interval splitting with an anchor on the guided teacher."""

    text_dropout: float = 0.0
    student_steps: int = Field(4, ge=1, description="forwards per image at inference")
    guidance_low: float = Field(1.0, ge=0)
    guidance_high: float = Field(3.0, ge=0)
    anchor_share: float = Field(0.25, gt=0, lt=1, description="share of a batch for the anchor")


class ExportSection(Section):
    """The engine's build."""

    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    opset: int = 18
    threads: int = Field(0, ge=0, description="0: all cores")
    tolerance: float = Field(1e-4, gt=0, description="largest relative L2 between engine and PyTorch")
    text_length: int = Field(32, ge=4, description="text tokens kept per caption; as many as the latents keep")
    steps: int = Field(4, ge=1, description="forwards per picture when latency is measured")
    latency_runs: int = Field(12, ge=1)
    batch_sizes: tuple[int, ...] = (1, 4)


class EvaluateSection(Section):
    """What the engine is measured by. Accuracy in shares, the margin in points of a hundred."""

    images: int = Field(256, ge=1)
    batch_size: int = Field(64, ge=1)
    teacher_steps: int = Field(8, ge=1)
    student_steps: int = Field(4, ge=1)
    guidance: float = Field(2.0, ge=0)
    photos: int = Field(64, ge=0, description="real photographs shown and measured, at most")
    photo_captions: int = Field(4, ge=2, le=12, description="captions per photograph, each naming another colour")
    examples: int = Field(16, ge=0, description="held-out pictures shown in the report")
    colour_bar: float = 0.90
    floor_line_bar: float = 0.75
    shadow_bar: float = 0.75
    photo_bar: float = 0.60
    student_margin: float = Field(2.0, description="points the student may lie below the teacher")
    enforce: bool = Field(True, description="missed bars fail the checks; False: they only warn")


class Preset(Section):
    """One size of the whole line."""

    name: str
    image_size: int = Field(64, ge=16)
    seed: int = 0
    # Validated by assets.curation.specs, which knows their meaning; training must not import it.
    catalogue: dict[str, Any] = {}
    curation: dict[str, Any] = {}
    autoencoder: AutoencoderSection = AutoencoderSection()
    latents: LatentsSection = LatentsSection()
    dit: DiTSection = DiTSection()
    pretrain: PretrainSection = PretrainSection()
    finetune: FinetuneSection = FinetuneSection()
    distil: DistilSection = DistilSection()
    export: ExportSection = ExportSection()
    evaluate: EvaluateSection = EvaluateSection()
