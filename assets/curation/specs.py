"""What the curation jobs are told. Light to import: orchestration builds these."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from assets.curation.captions.settings import CaptionSection
from assets.curation.filters import ORDER
from assets.curation.filters.settings import EmbedderSection, FilterSection
from assets.curation.segmenter import SegmentSection
from infra.errors import nearest
from infra.jobs.spec import JobSpec


class CatalogueSection(BaseModel):
    """The rendered sample catalogue: its size and its dirt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(6000, ge=1, description="training pictures, dirt included")
    holdout: int = Field(256, ge=0, description="held-out pictures of (wall, floor, object) triples never trained on")
    size: int = Field(64, ge=16, description="pixels per side")
    seed: int = Field(0, ge=0)
    dirt: float = Field(0.03, ge=0, le=0.5, description="share of planted bad files")


class CurationSection(BaseModel):
    """How pictures are judged and packed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_size: int | None = Field(None, ge=1, description="shorter side in pixels; None: the preset's image size")
    max_megapixels: float = Field(64.0, gt=0, description="larger pictures are refused before they are decoded")
    max_side: int = Field(1024, ge=64, description="longer side of a packed picture; larger ones are re-encoded")
    filters: FilterSection = Field(default_factory=FilterSection, description="the filters and their thresholds")
    skip: tuple[str, ...] = Field((), description="filters that are not run, by name")
    audit: bool = Field(False, description="let every filter judge every picture, also those that one has dropped")
    holdout_share: float = Field(
        0.1, ge=0, lt=1, description="of a delivery's pictures, by their bytes: engines are judged by them, none learns"
    )
    hash_distance: int = Field(12, ge=0, le=24, description="of 64 bits; pairs up to this far are looked at")
    residual: float = Field(24.0, gt=0, description="grey levels two aligned copies may differ by anywhere")
    embedder: EmbedderSection = Field(
        default_factory=EmbedderSection, description="whose embeddings tell semantic duplicates and drift"
    )
    masks: bool = Field(True, description="cut a mask for pictures that came without one")
    segmenter: SegmentSection = Field(
        default_factory=SegmentSection, description="who cuts masks where none came along"
    )
    mask_confidence: float = Field(0.8, ge=0, le=1, description="a found mask below this is not used")
    captioner: CaptionSection = Field(default_factory=CaptionSection, description="who describes pictures")
    recaption: Literal["missing", "all"] = Field("missing", description="which pictures the captioner describes")
    slice_size: int = Field(1024, ge=1, description="pictures per slice, on average")
    workers: int = Field(2, ge=1, description="decoding processes")

    def judging(self) -> dict[str, Any]:
        """What decides a picture's verdicts."""
        return self.model_dump(mode="json", include={"max_megapixels", "filters", "skip", "audit"})

    @field_validator("skip")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ORDER:
                raise ValueError(
                    f"there is no filter '{name}'.{nearest(name, ORDER)} The filters are {', '.join(ORDER)}"
                )
        return names


class IngestSpec(JobSpec):
    """Read a delivery into the catalog. Result data: {"files", "captions", "problems", "place", "data_version"}."""

    delivery: str
    uri: str
    options: CatalogueSection | None = None
    licence: str = "unspecified"


class FilterSpec(JobSpec):
    """Judge and pack a delivery. Result data: {"slices", "funnel", "truth", "unsure_masks", "images"}.

    Of `parts` processes on different machines each scans or packs its `part`.
    """

    delivery: str
    image_size: int = Field(ge=1)
    config: CurationSection = Field(default_factory=CurationSection)
    part: int = Field(0, ge=0)
    parts: int = Field(1, ge=1)

    def sliced(self, index: int, count: int) -> Self:
        return self.model_copy(update={"part": index, "parts": count, "output": f"{self.output}/parts/{index}"})

    @property
    def min_size(self) -> int:
        """The shorter side in pixels that a picture needs."""
        return self.config.min_size or self.image_size
