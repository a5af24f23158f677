"""For each expectation that rows of a delivery do not meet: what those pictures look like, with what was found instead.

However large the delivery, a check shows a handful of them: the first by image id, which is a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from assets.curation.suite import Unexpected
from infra.catalog.reporting import Place
from infra.tiles import Tile, small_grid

Look = Callable[[str, str], np.ndarray | None]
"""(uri, image id) → the picture, or None where it is gone or no longer that image."""


@dataclass(frozen=True)
class Shown:
    """`ids`: the images that can be seen, or are named, in `png`."""

    png: bytes
    ids: list[str]


def pictures_of(
    unexpected: Mapping[str, Sequence[Unexpected]], places: Mapping[int, Place], look: Look
) -> dict[str, Shown]:
    """Check → its picture, of the rows whose sightings `places` knows; no picture is read twice."""
    seen: dict[int, np.ndarray | None] = {}
    for one in _known(unexpected, places):
        if one.sighting not in seen:
            place = places[one.sighting]
            seen[one.sighting] = look(place.uri, place.image_id) if place.image_id else None
    shown = {}
    for check, rows in unexpected.items():
        known = list(_known({check: rows}, places))
        if known:
            tiles = [Tile(seen[one.sighting], _label(one, places[one.sighting])) for one in known]
            ids = [image_id for one in known if (image_id := places[one.sighting].image_id)]
            shown[check] = Shown(small_grid(tiles), ids)
    return shown


def _known(unexpected: Mapping[str, Sequence[Unexpected]], places: Mapping[int, Place]) -> Iterable[Unexpected]:
    return (one for rows in unexpected.values() for one in rows if one.sighting in places)


def _label(one: Unexpected, place: Place) -> str:
    """A file whose bytes could not be read has no id yet: its name stands for it."""
    name = place.image_id[:12] if place.image_id else place.uri.rsplit("/", 1)[-1]
    return f"{name}: {one.words or place.dropped or 'dropped'}"
