"""The typed settings of every stage, with the defaults that all presets share.

Importable without torch: orchestration builds specs from these. A preset file only names what differs.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from training.presets.export import ExportSection
from training.presets.section import Section


class OptimiserSection(Section):
    """What every training loop needs: AdamW with warm-up and cosine decay, EMA, checkpoints and logging."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(0.02, ge=0, le=1, description="share of the peak left at the last step")
    warmup: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    optimiser: Literal["adamw", "muon"] = Field("adamw", description="muon: for the matrices inside the blocks")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    ema: float = Field(0.998, ge=0, lt=1, description="decay per step; 0 keeps no average")
    ema_every: int = Field(2, ge=1, description="steps between moves of the average")
    log_every: int = Field(10, ge=1, description="steps between metrics")
    sample_every: int = Field(0, ge=0, description="steps between sample grids; 0: only at the end")
    save_seconds: float = Field(25.0, gt=0, description="wall seconds between checkpoints")
    held_out_every: int = Field(0, ge=0, description="steps between losses on held-out samples; 0: never")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    ranks: int = Field(1, ge=1, description="processes on this machine that share each batch")
    sharding: Literal["ddp", "fsdp", "hsdp"] = Field("ddp", description="weights on every rank, over all, or per node")
    microbatch: int | None = Field(None, ge=1, description="samples per rank and forward; None: all of the rank's")
    compile: bool = Field(False, description="torch.compile the trained model")
    checkpoints: Literal["whole", "sharded"] = Field("whole", description="sharded: a file per rank, with fsdp or hsdp")
    keep_in_store: bool = Field(False, description="copy checkpoints to the object store, to resume on another machine")


OPERATION = frozenset({"device", "ranks", "sharding", "microbatch", "compile", "checkpoints"}) | {
    "keep_in_store",
    "save_seconds",
    "log_every",
    "sample_every",
    "held_out_every",
}
"""Settings that say how a model is trained, not which: a run resumes although they have changed. Only from whole
checkpoints to sharded ones and back it does not: those of the other layout are passed over, and named in the log.
"""


def without_operation(value: Any) -> Any:
    """A section's values, or a spec's, without those of `OPERATION`: what the trained model depends on."""
    if isinstance(value, dict):
        return {name: without_operation(part) for name, part in value.items() if name not in OPERATION}
    return value


def most_ranks(section: Section) -> int:
    """The most processes that a recipe's section, or one of a stage in it, asks for."""
    values = [getattr(section, name) for name in type(section).model_fields]
    nested = [most_ranks(value) for value in values if isinstance(value, Section)]
    return max([getattr(section, "ranks", 1), *nested])


def needs_all_weights(section: OptimiserSection, why: str) -> None:
    """Raises ValueError where weights are sharded: they are gathered in the model's own forward, and nowhere else."""
    if section.sharding != "ddp":
        raise ValueError(f"sharding: {section.sharding} gathers weights in a model's forward, but {why}: use ddp")


class PerceptualSection(Section):
    """A distance between features beside that between pixels (LPIPS)."""

    features: str = Field("random", description="random, a .safetensors file of VGG-16, or package.module:build")
    weight: float = Field(1.0, gt=0)


class AdversarialSection(Section):
    """A patch discriminator to learn against, weighed by the gradients at the last layer (VQGAN)."""

    weight: float = Field(0.5, gt=0, description="share of the reconstruction's gradient at the last layer")
    start: int = Field(0, ge=0, description="steps before it begins")
    width: int = Field(32, ge=8, description="channels of its first layer")
    depth: int = Field(3, ge=1, description="halvings of the side")


class MaskedDecoderSection(OptimiserSection):
    """A second decoder that sees mask and original, trained after the first with the encoder frozen."""

    drift: float = Field(
        0.3, ge=0, description="deviation of the latents' error per picture and channel, as a sampler's"
    )
    border: float = Field(4.0, ge=0, description="extra weight of the hole's pixels next to what is kept")

    @model_validator(mode="after")
    def _samples_need_all_weights(self) -> Self:
        if self.sample_every:
            needs_all_weights(self, "sample_every decodes past it")
        return self


class AutoencoderSection(OptimiserSection):
    """An autoencoder (latent diffusion, Rombach et al. 2022) small enough for two cores."""

    factor: Literal[4, 8, 16, 32] = Field(8, description="pixels per latent cell along one side")
    latent_channels: int = Field(8, ge=1)
    width: int = Field(96, ge=8, description="channels at the working resolution")
    depth: int = Field(3, ge=1, description="residual blocks at the working resolution, on either side")
    codes: int = Field(0, ge=0, description="entries of a VQ codebook; 0: a KL bottleneck")
    kl_weight: float = Field(1e-4, ge=0)
    gradient_weight: float = Field(0.5, ge=0, description="weight of the L1 between image gradients")
    crop: int | None = Field(None, ge=32, multiple_of=32, description="train on random crops of this side; None: whole")
    perceptual: PerceptualSection | None = None
    adversarial: AdversarialSection | None = None
    masked_decoder: MaskedDecoderSection | None = None
    diffusers: str | None = Field(None, description="folder of a diffusers AutoencoderKL to use instead of training")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        asked = [name for name in ("perceptual", "adversarial", "masked_decoder") if getattr(self, name) is not None]
        if self.diffusers is not None and asked:
            raise ValueError(f"with diffusers nothing is trained here: leave out {', '.join(asked)}")
        needs_all_weights(self, "an autoencoder is trained through its halves")
        return self


class LatentsSection(Section):
    """What is computed once per image before the transformer trains, or for each batch while it trains."""

    precomputed: bool = Field(True, description="False: pictures are encoded in the training loop, and nothing is kept")
    aspect_ratios: bool = Field(False, description="pictures keep the shape of their bucket; False: all are squares")
    patch: int = Field(2, ge=1, description="latent cells along a token's side, as dit.patch: a bucket is whole tokens")
    text_length: int = Field(32, ge=4, le=255, description="text tokens kept per caption, padding included")
    captions: int = Field(4, ge=1, description="captions kept per image")
    random_masks: int = Field(3, ge=1, description="random masks per image, beside the product mask")
    jittered_masks: int = Field(0, ge=0, description="product masks per image that keep an uneven rim around it")
    jitter: float = Field(0.06, gt=0, le=0.5, description="the widest rim, as a share of the picture's shorter side")
    batch_size: int = Field(64, ge=1, description="pictures encoded at once")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")


class DiTSection(Section):
    """The transformer's shape."""

    width: int = Field(256, ge=16)
    depth: int = Field(6, ge=1)
    heads: int = Field(4, ge=1, description="width over heads is a multiple of 4")
    patch: int = Field(2, ge=1)
    mlp_ratio: float = Field(3.0, gt=0, description="of a plain MLP with as many weights; the gated one is 2/3 as wide")


class FlowSection(OptimiserSection):
    """A recipe that learns the flow's velocity."""

    text_dropout: float = Field(0.1, ge=0, le=1)
    hole_weight: float = Field(0.9, ge=0, le=1, description="share of the loss that lies in the hole")
    # What the hole holds is settled near t = 1: centred times (0, 1) need twice the steps for the same colours.
    time_mean: float = Field(1.0, description="of the logit-normal times; above 0 is noisier")
    time_std: float = Field(1.3, gt=0)
    shift_base: int = Field(0, ge=0, description="latent cells at which times are not shifted for size; 0: never are")


class TreadSection(Section):
    """Token routing (TREAD): a share of the tokens skips some blocks in training."""

    share: float = Field(0.5, gt=0, lt=1)
    start: int = Field(2, ge=0, description="the first block, counted from 0, that they skip")
    stop: int = Field(ge=1, description="the block before which they are back")

    @model_validator(mode="after")
    def _in_order(self) -> TreadSection:
        if self.start >= self.stop:
            raise ValueError(f"tokens that leave before block {self.start} cannot return before block {self.stop}")
        return self


class RepaSection(Section):
    """Representation alignment (REPA): one block's tokens learn to predict a teacher's features of the picture."""

    features: str = Field("random", description="random, a .safetensors file of VGG-16, or package.module:build")
    weight: float = Field(0.5, gt=0, description="λ")
    block: int = Field(ge=1, description="blocks that the aligned tokens have behind them")
    until: int | None = Field(None, ge=1, description="steps after which it ends; None: never")
    width: int = Field(512, ge=1, description="of the projection's hidden layers")


class CompletionSection(FlowSection):
    """A recipe that learns the velocity from pictures with holes."""

    target: Literal["velocity", "noise"] = Field("velocity", description="what the squared error is measured in")
    min_snr: float | None = Field(None, gt=0, description="γ of min-SNR weights, for a noise target; None: unweighted")
    tread: TreadSection | None = None

    @model_validator(mode="after")
    def _min_snr_has_its_target(self) -> CompletionSection:
        if self.min_snr is not None and self.target != "noise":
            raise ValueError("min_snr weighs a noise target: set target to noise, or leave min_snr out")
        return self


class PretrainSection(CompletionSection):
    product_share: float = Field(0.5, ge=0, le=1, description="samples whose hole is everything but the product")
    empty_share: float = Field(0.1, ge=0, le=1, description="samples masked entirely: plain text to image")
    repa: RepaSection | None = None

    @model_validator(mode="after")
    def _measuring_needs_all_weights(self) -> Self:
        if self.repa is not None and (self.sample_every or self.held_out_every):
            needs_all_weights(self, "with repa, sample_every and held_out_every go past it")
        return self


class RandomStageSection(CompletionSection):
    product_share: float = Field(0.0, ge=0, le=1, description="samples whose hole is all but the product")
    empty_share: float = Field(0.05, ge=0, le=1)


class ProductStageSection(CompletionSection):
    rank: int = Field(16, ge=1, description="LoRA rank")
    scale: float = Field(1.0, gt=0, description="LoRA's alpha / rank")


class CuratedStageSection(CompletionSection):
    """A short pass of the same adapters over few pictures: those of a list, or those with most of a caption."""

    ids: str | None = Field(None, description="store key of a text with one image id per line; None: by caption")
    share: float = Field(0.1, gt=0, le=1, description="of the pictures with a product mask, where there is no list")


class FinetuneSection(Section):
    random_masks: RandomStageSection = RandomStageSection()
    product_masks: ProductStageSection = ProductStageSection()
    curated: CuratedStageSection | None = Field(None, description="None: no third pass")


OTHER_STEPS = {8: 0.2, 2: 0.1, 1: 0.1}
"""What a student learns beside its default where a preset does not say."""


class DistilSection(FlowSection):
    """A student of few steps, anchored at the guided teacher."""

    loss: Literal["split", "perflow"] = Field("split", description="what it is taught: see training.distillation")
    text_dropout: float = Field(0.0, ge=0, le=1)
    student_steps: int = Field(4, ge=1, description="forwards per image at inference, unless others are asked for")
    other_steps: dict[int, float] = Field(
        default_factory=lambda known: {
            steps: share for steps, share in OTHER_STEPS.items() if steps != known.get("student_steps")
        },
        description="forwards per image that the same weights learn → share of the samples",
    )
    guidance_low: float = Field(1.0, ge=0)
    guidance_high: float = Field(3.0, ge=0)
    negative_share: float = Field(0.2, ge=0, le=1, description="samples with a text to lead away from")
    anchor_share: float = Field(
        0.15, gt=0, lt=1, description="samples that are also a lesson of the teacher's velocity"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if any(steps < 1 or share < 0 for steps, share in self.other_steps.items()):
            raise ValueError(f"other_steps {self.other_steps}: forwards are at least 1 and shares at least 0")
        if given := self.other_steps.get(self.student_steps):
            raise ValueError(
                f"other_steps gives {given} of the samples to {self.student_steps} steps, "
                "but these are student_steps, which have what the others leave: leave that entry out, or at 0"
            )
        left = self.shares[self.student_steps]
        if self.anchor_share > left:
            raise ValueError(
                f"anchor_share {self.anchor_share} is a part of the {left:.2f} of the samples that other_steps leave "
                "to student_steps: lower it, or theirs"
            )
        return self

    @model_validator(mode="after")
    def _guidance_in_order(self) -> Self:
        if self.guidance_low > self.guidance_high:
            raise ValueError(f"guidance_low {self.guidance_low} is above guidance_high {self.guidance_high}")
        return self

    @property
    def shares(self) -> dict[int, float]:
        """Forwards per image → share of the samples; the default first, then the more, then the fewer."""
        others = {steps: share for steps, share in self.other_steps.items() if steps != self.student_steps}
        return {self.student_steps: 1 - sum(others.values()), **dict(sorted(others.items(), reverse=True))}

    @property
    def taught_share(self) -> float:
        """Share of the samples whose budget is the default's or more."""
        return sum(share for steps, share in self.shares.items() if steps >= self.student_steps)


class PersonaliseStageSection(FlowSection):
    """How one method learns a subject."""

    steps: int = Field(200, ge=1)
    batch_size: int = Field(16, ge=2)
    learning_rate: float = Field(3e-4, gt=0)
    warmup: int = Field(10, ge=0)
    ema: float = Field(0.97, ge=0, lt=1)
    empty_share: float = Field(0.8, ge=0, le=1, description="samples masked entirely: plain text to image")


class LoraStageSection(PersonaliseStageSection):
    steps: int = Field(300, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    rank: int = Field(16, ge=1, description="LoRA rank")
    scale: float = Field(1.0, gt=0, description="LoRA's alpha / rank")


class InversionStageSection(PersonaliseStageSection):
    steps: int = Field(400, ge=1)
    learning_rate: float = Field(1e-2, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    text_dropout: float = Field(0.0, ge=0, le=1)
    vectors: int = Field(4, ge=1, description="word embeddings that stand for the subject")

    @model_validator(mode="after")
    def _token_needs_all_weights(self) -> Self:
        needs_all_weights(self, "a learned word has none")
        return self


class PersonaliseSection(Section):
    """One subject from a few photographs: all weights (DreamBooth), adapters, or a word for the text encoder."""

    method: Literal["dreambooth", "lora", "textual-inversion"] = "lora"
    identifier: str = Field("sks", min_length=1, description="rare word that names the subject, unless it is learned")
    prior_images: int = Field(24, ge=0, description="pictures of the class, drawn by the base, to keep the class")
    prior_weight: float = Field(1.0, ge=0, description="of the class's loss against the subject's")
    text_length: int = Field(32, ge=4, description="text tokens kept per caption; as many as the latents keep")
    dreambooth: PersonaliseStageSection = PersonaliseStageSection()
    lora: LoraStageSection = LoraStageSection()
    textual_inversion: InversionStageSection = InversionStageSection()

    @property
    def stage(self) -> PersonaliseStageSection:
        """The chosen method's."""
        stages = {"dreambooth": self.dreambooth, "lora": self.lora, "textual-inversion": self.textual_inversion}
        return stages[self.method]


class GateSection(Section):
    """What a challenger has to show against the champion, on the same pictures, captions and seeds."""

    least: int = Field(256, ge=4, description="answers of each side below which nothing is decided")
    rounds: int = Field(20, ge=10, description="rounds of latency, both sides by turns")
    margin: float = Field(0.2, gt=0, description="standard deviations that are not worse, of every metric")
    margins: dict[str, PositiveFloat] = Field({}, description="the same for single metrics, by name")
    latency_gain: float = Field(0.05, gt=0, lt=1, description="share of the latency saved that counts as better")
    latency_margin: float = Field(0.2, gt=0, description="share of the latency that may be lost")
    shown: int = Field(12, ge=0, description="regressions on the gate's page")


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
    segmenter_steps: int = Field(800, ge=0, description="to find products in what was generated; 0: no expansion")
    extractor: str = Field("vae-latent", description="features: clip:…, dinov2:…, inception:…, vae-latent, randconv:0")
    reward_steps: int = Field(600, ge=0, description="of the reward model that picks the best of several; 0: none")
    reward_labels: str | None = Field(None, description="path of a file of preferences, a JSON object per line")
    best_of: int = Field(4, ge=1, description="candidates that picking is watched with; 1: it is not")
    watched: int = Field(64, ge=2, description="held-out pictures for that, at most")
    gate: GateSection = GateSection()
    enforce: bool = Field(True, description="missed bars fail the checks; False: they only warn")


class Preset(Section):
    """One size of the whole line."""

    name: str
    image_size: int = Field(64, ge=16)
    seed: int = 0
    # Validated by assets.curation.specs, which knows their meaning; training must not import it.
    catalogue: dict[str, Any] = Field({})
    curation: dict[str, Any] = Field({})
    autoencoder: AutoencoderSection = AutoencoderSection()
    latents: LatentsSection = LatentsSection()
    dit: DiTSection = DiTSection()
    pretrain: PretrainSection = PretrainSection()
    finetune: FinetuneSection = FinetuneSection()
    distil: DistilSection = DistilSection()
    personalise: PersonaliseSection = PersonaliseSection()
    export: ExportSection = ExportSection()
    evaluate: EvaluateSection = EvaluateSection()
