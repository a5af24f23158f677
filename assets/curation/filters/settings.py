"""Every threshold of the filters, each with what it means. Why a number is what it is stands where it is used."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DetailSection(_Section):
    """Blur, enlargement, compression, noise."""

    measures: tuple[Literal["edge_width", "octave_loss", "blockiness", "repeats", "disorder"], ...] = Field(
        ("edge_width", "octave_loss", "blockiness", "repeats", "disorder"),
        min_length=1,
        description="what is measured: edge_width alone finds blur",
    )
    max_edge_width: float = Field(
        2.3, gt=1, description="pixels, of 256 along the longer side, that the sharpest edges take"
    )
    max_octave_loss: float = Field(2.5, gt=1, description="times that the finest octave is weaker than the next one")
    max_blockiness: float = Field(2.7, gt=1, description="steps between the 8 × 8 blocks over steps inside them")
    max_blockiness_starved: float = Field(2.0, gt=1, description="the same in a JPEG of fewer bits than `starved_bits`")
    starved_bits: float = Field(
        0.3, ge=0, description="bits per pixel; a quarter of what quality 50 takes for a photograph"
    )
    max_repeats: float = Field(0.5, gt=0, le=1, description="share of both sides along which pixels repeat regularly")
    max_disorder: float = Field(
        0.7, gt=0, le=1, description="share of a pixel's contrast that its neighbours do not share"
    )


class ExposureSection(_Section):
    """Too dark, too light, nothing there."""

    dark_level: int = Field(32, ge=0, le=255, description="99 % of the picture is darker than this grey level: dark")
    light_level: int = Field(
        225, ge=0, le=255, description="99 % of the picture is lighter than this grey level: light"
    )
    max_clipped: float = Field(
        0.75, gt=0, le=1, description="share of burnt-out pixels where they are no plain backdrop"
    )
    min_contrast: int = Field(12, ge=0, le=255, description="levels between neighbouring areas, at the strongest place")


class GraphicsSection(_Section):
    """Logos, slides, collages, borders."""

    min_even: float = Field(0.6, gt=0, le=1, description="share of even colour in a graphic")
    max_soft: float = Field(0.005, gt=0, le=1, description="share of soft tones in a graphic")
    min_others: float = Field(0.01, gt=0, le=1, description="share of even colours in a graphic beside the commonest")
    min_seam: float = Field(
        0.85, gt=0, le=1, description="share of a picture's height or width along which a seam is seen"
    )
    max_border: float = Field(
        0.5, gt=0, le=1, description="of a side, even bars on two opposite sides: less than half is left"
    )
    note_border: float = Field(
        0.05, gt=0, le=1, description="of a side, bars from which on the picture is noted as unsure"
    )


class TextSection(_Section):
    """Text laid over a picture."""

    glyphs: int = Field(4, ge=2, description="letters in one line that make a drawn text where there is no OCR")
    ocr: bool = Field(
        True, description="let RapidOCR decide for pictures of 128 pixels or more; about 0.15 s for a photograph"
    )
    ocr_side: int = Field(480, ge=128, description="pixels of the longer side at which text is looked for")
    min_confidence: float = Field(0.8, ge=0, le=1, description="of the reader in a line, below which it is texture")


class CaptionTextSection(_Section):
    """Cleaning of captions. A bad caption never costs the picture."""

    max_characters: int = Field(600, ge=16, description="longer captions are cut at the end of a sentence or word")
    min_letters: int = Field(3, ge=1, description="fewer letters say nothing")


class OpenClipModel(_Section):
    """A checkpoint for the open_clip package, which is not among the requirements."""

    architecture: str = Field(description="open_clip's name of the architecture, such as ViT-L-14")
    checkpoint: str = Field(description="path of the weights file; nothing is downloaded")
    head: str | None = Field(
        None,
        description="ONNX file from the normalised image embedding (1, D) to a score; none: similarity to the captions",
    )


class ModelSection(_Section):
    """A model that looks at pictures: at most one of an ONNX file, an open_clip checkpoint and an endpoint."""

    onnx: str | None = Field(
        None, description="path: input `image` float32 (1, 3, S, S) and, if it has one, `text` string (1,)"
    )
    open_clip: OpenClipModel | None = None
    endpoint: str | None = Field(
        None,
        description='URL that answers {"image": base64, "captions": [...]} with {"score": …} or {"embedding": […]}',
    )
    api_key_variable: str | None = Field(None, description="environment variable with the endpoint's key")
    timeout: float = Field(30.0, gt=0, description="seconds per request")
    mean: tuple[float, float, float] = Field(
        (0.48145466, 0.4578275, 0.40821073), description="of the model's inputs; CLIP's"
    )
    std: tuple[float, float, float] = Field(
        (0.26862954, 0.26130258, 0.27577711), description="of the model's inputs; CLIP's"
    )

    @model_validator(mode="after")
    def _one_back_end(self) -> Self:
        given = [name for name in ("onnx", "open_clip", "endpoint") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of onnx, open_clip and endpoint, not {' and '.join(given)}")
        return self

    @property
    def model(self) -> str:
        """What tells this model from another one; "" where none is configured."""
        clip = self.open_clip
        return (
            self.onnx
            or self.endpoint
            or (f"{clip.architecture} {clip.checkpoint} {clip.head or ''}".strip() if clip else "")
        )


class ScorerSection(ModelSection):
    """A model that scores pictures. None: not scored."""

    output: int = Field(0, ge=0, description="which number of the model's output is the score")
    softmax: bool = Field(False, description="take the softmax of the model's output first")
    threshold: float = Field(description="where it starts to drop")


class EmbedderSection(ModelSection):
    """A model that embeds pictures, for semantic duplicates and drift. None: nothing is embedded.

    An ONNX file's first output is the embedding, (1, D).
    """

    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="of the weights file; a file with another one is refused"
    )
    revision: str = Field(
        "", description="of a served model; change it with the model, and everything is embedded anew"
    )
    # SemDeDup (Abbas et al. 2023) turns this down for as much as is to go; here packshots of two flavours, which a
    # general encoder finds much alike, are two pictures. The same as in Photoroom's dataroom, on CoCa's embeddings.
    threshold: float = Field(
        0.98, gt=0, le=1, description="cosine similarity to a kept picture from which on a picture is dropped"
    )

    @model_validator(mode="after")
    def _makes_embeddings(self) -> Self:
        if self.open_clip is not None and self.open_clip.head is not None:
            raise ValueError("an embedder's open_clip checkpoint takes no head: a head makes a score")
        if self.sha256 is not None and not (self.onnx or self.open_clip):
            raise ValueError("sha256 is that of a weights file; give onnx or open_clip with it")
        return self


class FilterSection(_Section):
    """What each filter is told."""

    max_aspect: float = Field(4.0, gt=1, description="longer over shorter side; the smallest size is the preset's")
    detail: DetailSection = Field(default_factory=DetailSection)
    exposure: ExposureSection = Field(default_factory=ExposureSection)
    graphics: GraphicsSection = Field(default_factory=GraphicsSection)
    text: TextSection = Field(default_factory=TextSection)
    caption: CaptionTextSection = Field(default_factory=CaptionTextSection)
    nsfw: ScorerSection = Field(default_factory=lambda: ScorerSection(threshold=0.5))
    alignment: ScorerSection = Field(default_factory=lambda: ScorerSection(threshold=0.2))
    aesthetics: ScorerSection = Field(default_factory=lambda: ScorerSection(threshold=4.0))
