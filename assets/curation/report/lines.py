"""The line that each filter draws, from its settings: what the page draws into the histograms."""

from __future__ import annotations

from assets.curation.filters import ORDER
from assets.curation.filters.settings import FilterSection
from assets.curation.report.gather import Threshold

_OVER_LIMIT = Threshold(1.0, "above", "the worst measure, as a multiple of its limit")


def lines(section: FilterSection, min_size: int) -> dict[str, list[Threshold]]:
    """Thresholds by filter, in the order in which they run; none where more than one number decides."""
    found = {
        "size": [Threshold(min_size, "below", "shorter side", unit="px")],
        "exposure": [_OVER_LIMIT],
        "detail": [_OVER_LIMIT],
        "graphics": [_OVER_LIMIT],
        "nsfw": [Threshold(section.nsfw.threshold, "above")],
        "alignment": [Threshold(section.alignment.threshold, "below")],
        "aesthetics": [Threshold(section.aesthetics.threshold, "below")],
    }
    return {name: found.get(name, []) for name in ORDER}
