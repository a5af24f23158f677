"""The filters that judge one picture at a time, one class per file; `build_filters` lines them up, cheapest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assets.curation.filters.base import PictureFilter
    from assets.curation.filters.settings import FilterSection

ORDER = ("size", "caption", "exposure", "detail", "graphics", "text overlay", "nsfw", "alignment", "aesthetics")
"""The filters' names in the order in which they run."""


def build_filters(config: FilterSection, min_size: int) -> list[PictureFilter]:
    """Every filter, once per worker process; models are loaded with the first picture that needs them.

    Args:
        config: the thresholds.
        min_size: pixels that a picture's shorter side must have.
    """
    from assets.curation.filters.captions import CaptionFilter
    from assets.curation.filters.detail import DetailFilter
    from assets.curation.filters.exposure import ExposureFilter
    from assets.curation.filters.graphics import GraphicsFilter
    from assets.curation.filters.scorers import ScorerFilter
    from assets.curation.filters.size import SizeFilter
    from assets.curation.filters.text_overlay import TextOverlayFilter

    return [
        SizeFilter(min_size, config.max_aspect),
        CaptionFilter(config.caption),
        ExposureFilter(config.exposure),
        DetailFilter(config.detail),
        GraphicsFilter(config.graphics),
        TextOverlayFilter(config.text),
        ScorerFilter("nsfw", config.nsfw, drops_above=True),
        ScorerFilter("alignment", config.alignment, drops_above=False, needs_caption=True),
        ScorerFilter("aesthetics", config.aesthetics, drops_above=False),
    ]
