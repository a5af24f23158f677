"""A delivery's checks show the pictures that they are about: a handful, read once, and none where all is well."""

from __future__ import annotations

import numpy as np

from assets.curation.check_pictures import pictures_of
from assets.curation.suite import Unexpected
from infra.catalog.reporting import Place
from infra.images import decode
from infra.tiles import SMALL_BYTES

PLACES = {k: Place(f"{k:064x}", f"s3://bucket/{k}.jpg", "blurred: 12 of 30" if k == 2 else "") for k in range(3)}
PLACES[9] = Place(None, "s3://bucket/unreadable.jpg", "no such file")


class Looking:
    """Noise for every picture but number 1, which is gone."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, uri: str, image_id: str) -> np.ndarray | None:
        self.read.append(uri)
        rng = np.random.default_rng(int(image_id, 16))
        return None if uri.endswith("/1.jpg") else rng.integers(0, 256, (300, 500, 3), dtype=np.uint8)


def test_each_check_shows_its_own_and_reads_nothing_twice() -> None:
    look = Looking()
    unexpected = {
        "sizes_are_in_range": [Unexpected(0, "188 px"), Unexpected(1, "90 px")],
        "most_files_are_kept": [Unexpected(1, ""), Unexpected(2, ""), Unexpected(9, "")],
        "formats_are_known": [Unexpected(4, "psd")],  # taken down since
    }
    shown = pictures_of(unexpected, PLACES, look)
    assert {check: one.ids for check, one in shown.items()} == {
        "sizes_are_in_range": [f"{k:064x}" for k in (0, 1)],
        "most_files_are_kept": [f"{k:064x}" for k in (1, 2)],
    }
    assert look.read == [f"s3://bucket/{k}.jpg" for k in range(3)]
    for one in shown.values():
        assert decode(one.png).std() > 0
        assert len(one.png) <= SMALL_BYTES
    assert pictures_of(unexpected, PLACES, look) == shown
    assert pictures_of({}, {}, look) == {}
