"""A takedown of a photograph that a subject of personalisation was taught from, found by the file that was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.curation.takedown import Report
from deploy.ancestry import reached
from infra.bundles import write_bundle
from infra.errors import BackdropError
from infra.files import sha256_bytes
from orchestration.takedown import find_images
from tests.assets.workshop import Workshop, image_id, photograph, traces_of, with_exif
from training.personalise.subject import Subject, read_subject, record_subject

GRID = "stages/personalized_model/v/photographs.png"


@pytest.fixture
def mug(workshop: Workshop) -> Subject:
    """A subject of two photographs with metadata and of one that was delivered too, and the model taught from them."""
    pictures = {"a.jpg": with_exif(20), "b.jpg": with_exif(21), "c.jpg": photograph(3)}
    subject = record_subject(workshop.store, "mug", "mug", pictures, workshop.catalog.taken_down)
    workshop.store.put(GRID, photograph(20) + photograph(21) + photograph(3))
    workshop.catalog.add_shown({GRID: subject.image_ids})
    return subject


def taught(workshop: Workshop, name: str, photographs: list[str]) -> str:
    """A personalised model, as the recipe leaves and the asset registers it; its bundle's id."""
    files = {"subject.json": name.encode()}
    bundle = write_bundle(workshop.store, f"stages/{name}", "personalised", files, {"photographs": photographs})
    workshop.catalog.record_model(bundle, "personalized_model", "v", workshop.version().version)
    return bundle


def take_down(workshop: Workshop, target: str) -> tuple[list[str], Report]:
    ids, _ = find_images(workshop.store, workshop.catalog, target)
    return ids, workshop.carry_out(target, ids)


def test_a_photograph_goes_by_the_hash_of_the_file_that_was_given(workshop: Workshop, mug: Subject) -> None:
    first, other = taught(workshop, "mug", mug.image_ids), taught(workshop, "duck", ["d" * 64])
    assert len(traces_of(workshop.store.folder, 20)) == 2  # the photograph itself, and the grid that shows it
    given, kept = sha256_bytes(with_exif(20)), sha256_bytes(photograph(20))
    ids, report = take_down(workshop, given)
    assert set(ids) == {given, kept}
    assert report.subjects == ["mug"]
    assert traces_of(workshop.folder, 20) == []
    models = {model.id for model in reached(workshop.store, workshop.catalog.models(), report.trained, ids)}
    assert first in models
    assert other not in models

    left = read_subject(workshop.store, "mug")
    assert len(left.photographs) == 2
    assert all(workshop.store.exists(key) for key in left.photographs)
    assert set(left.image_ids) == {sha256_bytes(with_exif(21)), image_id(21), image_id(3)}
    for again in (with_exif(20), photograph(20)):
        with pytest.raises(BackdropError, match=r"new\.jpg was taken down"):
            record_subject(workshop.store, "mug", "mug", {"new.jpg": again}, workshop.catalog.taken_down)


def test_a_copy_and_a_delivered_image_find_the_photograph_too(workshop: Workshop, mug: Subject, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(with_exif(21))
    take_down(workshop, str(copy))
    copy.unlink()
    assert traces_of(workshop.folder, 21) == []
    take_down(workshop, image_id(3))
    assert traces_of(workshop.store.folder, 3) == []
    assert list(workshop.store.list("subjects/")) == ["subjects/mug.json", mug.photographs[_place(mug, 20)]]


def _place(subject: Subject, number: int) -> int:
    return next(k for k, key in enumerate(subject.photographs) if image_id(number) in subject.ids_of(key))


def test_a_folder_of_the_store_means_one_whole_subject_and_the_same_order_is_gone_on_with(
    workshop: Workshop, mug: Subject
) -> None:
    record_subject(workshop.store, "mug-2", "mug", {"a.jpg": photograph(30)})
    target = f"{workshop.store.folder}/subjects/mug/"
    ids, _ = take_down(workshop, target)
    assert set(ids) == set(mug.image_ids)
    assert [key for key in workshop.store.list("subjects/") if "mug-2" not in key] == []
    assert len(list(workshop.store.list("subjects/mug-2"))) == 2
    # Should it be killed before its end, the same command still knows what it was about.
    assert find_images(workshop.store, workshop.catalog, target) == (ids, [])


def test_what_a_killed_recording_left_is_swept(workshop: Workshop, mug: Subject) -> None:
    workshop.store.put(f"subjects/duck/{image_id(40)}.jpeg", photograph(40))
    workshop.take_down([8])
    assert traces_of(workshop.store.folder, 40) == []
    assert all(workshop.store.exists(key) for key in mug.photographs)


def test_a_record_of_before_sources_were_kept_is_read(workshop: Workshop, mug: Subject) -> None:
    key = mug.photographs[_place(mug, 20)]
    workshop.store.put("subjects/mug.json", f'{{"name": "mug", "word": "mug", "photographs": ["{key}"]}}'.encode())
    take_down(workshop, image_id(20))
    assert not list(workshop.store.list("subjects/"))
