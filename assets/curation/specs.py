"""What the curation jobs are told. Light to import: orchestration builds these."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

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
    max_aspect: float = Field(4.0, gt=1, description="longer over shorter side")
    max_megapixels: float = Field(64.0, gt=0, description="larger pictures are refused before they are decoded")
    max_side: int = Field(1024, ge=64, description="longer side of a packed picture; larger ones are re-encoded")
    hash_distance: int = Field(12, ge=0, le=24, description="of 64 bits; pairs up to this far are looked at")
    residual: float = Field(24.0, gt=0, description="grey levels two aligned copies may differ by anywhere")
    text_glyphs: int = Field(4, ge=2, description="letters in one line that make a drawn text")
    mask_confidence: float = Field(0.8, ge=0, le=1, description="a found mask below this is not used")
    slice_size: int = Field(1024, ge=1, description="pictures per slice")
    workers: int = Field(2, ge=1, description="decoding processes")


class IngestSpec(JobSpec):
    """Read a delivery into the catalog. Result data: {"images", "exact_duplicates", "unreadable", "bytes"}."""

    delivery: str
    uri: str
    options: CatalogueSection | None = None
    licence: str = "unspecified"


class FilterSpec(JobSpec):
    """Judge and pack a delivery. Result data: {"slices", "funnel", "truth", "unsure_masks", "images"}."""

    delivery: str
    image_size: int = Field(ge=1)
    config: CurationSection = Field(default_factory=CurationSection)
