"""Which images a target means, and which pictures a model was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.catalog import SightingRow
from infra.errors import BackdropError
from tests.assets.workshop import DELIVERY, Workshop, image_id, photograph


def test_targets(workshop: Workshop, tmp_path: Path) -> None:
    from orchestration.takedown import find_images

    catalog, theirs = workshop.catalog, workshop.folder / "theirs"
    assert find_images(workshop.store, catalog, image_id(3)) == ([image_id(3)], [])
    assert find_images(workshop.store, catalog, str(theirs / "04.jpg")) == ([image_id(4)], [])
    assert find_images(workshop.store, catalog, theirs.as_uri() + "/0")[0] == sorted(image_id(k) for k in range(10))
    assert find_images(workshop.store, catalog, "sample cat")[0] == [image_id(3)]
    copy = tmp_path / "a copy.jpg"
    copy.write_bytes(photograph(5))
    assert find_images(workshop.store, catalog, str(copy)) == ([image_id(5)], [])
    new = tmp_path / "new.jpg"
    new.write_bytes(photograph(50))
    catalog.add_delivery("next", "file:///next", "pictures")
    catalog.ingest("next", [SightingRow(uri=new.as_uri()), SightingRow(uri="file:///next/gone.jpg")])
    assert find_images(workshop.store, catalog, str(new)) == ([image_id(50)], [])  # listed, not scanned: its bytes tell
    for nothing in ("", " ", "0" * 64, "s3://nowhere/", "file:///next/gone"):
        with pytest.raises(BackdropError):
            find_images(workshop.store, catalog, nothing)


def test_a_model_is_traced_to_its_pictures(workshop: Workshop) -> None:
    version = workshop.version().version
    counts = workshop.catalog.origin_counts(version)
    assert sum(count.images for count in counts) == 10
    assert {(count.delivery, count.kind, count.licence) for count in counts} == {(DELIVERY, "pictures", "CC0")}
    origins = list(workshop.catalog.origins(version))
    assert {origin.image_id for origin in origins} == {image_id(k) for k in range(10)}
    assert all(origin.uri.startswith("file://") for origin in origins)
