"""A takedown end to end on a real catalog and a store of files: what it removes, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assets.curation.takedown import Takedown, withdraw
from infra.catalog import Catalog, SightingRow
from infra.object_store import ObjectStore
from infra.settings import REPOSITORY
from infra.shards import FILTERED_COLUMNS, Withdrawn, load_version, make_version, read_slices, write_slice
from tests.assets.workshop import DELIVERY, Workshop, image_id, photograph, sample, traces_of
from training.latent_slices import EXAMPLES, example_ids, find_latents


def test_the_probes_find_every_copy(workshop: Workshop) -> None:
    # Shard, latents, our delivery, two slices that nobody recorded, and a half-written file.
    assert len(traces_of(workshop.store.folder, 3)) == 6
    # Cache, temporary folder, the batch of a broken step, the rendered delivery's local copy.
    assert len(traces_of(workshop.state, 3)) == 4
    assert len(traces_of(workshop.store.folder, 11)) == 1  # quarantine


def test_nothing_is_left_of_the_image_and_everything_of_the_others(workshop: Workshop) -> None:
    first, second = sorted(workshop.slices(), key=lambda piece: -piece.samples)
    untouched = {key: workshop.store.get(key) for key in workshop.store.list(f"{second.prefix}/")}
    old = workshop.version()
    report = workshop.take_down([3, 11])
    assert workshop.catalog.unclean_slices() == []

    assert traces_of(workshop.store.folder, 3) == traces_of(workshop.state, 3) == []
    assert traces_of(workshop.store.folder, 11) == []
    assert {key: workshop.store.get(key) for key in workshop.store.list(f"{second.prefix}/")} == untouched

    left = workshop.slices()
    assert second in left
    expected = write_slice(
        workshop.store, "filtered", FILTERED_COLUMNS, map(sample, [0, 1, 2, 4, 5]), {"delivery": DELIVERY}
    )
    assert expected in left
    ids = {row["id"] for row in read_slices(workshop.store, left, workshop.state)}
    assert ids == {image_id(k) for k in range(10)} - {image_id(3)}
    assert report.rewritten == [{"delivery": DELIVERY, "old": first.id, "new": expected.id}]
    assert set(workshop.catalog.members(expected.id)) == {image_id(k) for k in (0, 1, 2, 4, 5)}

    latents = find_latents(workshop.store, {"source": expected.id, "autoencoder": "a"})
    assert latents is not None
    rows = list(read_slices(workshop.store, [latents.piece], workshop.state))
    assert [int(row["latent"][0, 0]) for row in rows] == [0, 1, 2, 4, 5]
    assert find_latents(workshop.store, {"source": first.id, "autoencoder": "a"}) is None

    with pytest.raises(Withdrawn, match="asked to"):
        load_version(workshop.store, old.version)
    with pytest.raises(Withdrawn, match="asked to"):
        list(read_slices(workshop.store, [first], workshop.state))
    with pytest.raises(Withdrawn):  # nobody packs it again by mistake
        write_slice(workshop.store, "filtered", FILTERED_COLUMNS, map(sample, range(6)), {"delivery": DELIVERY})
    assert old.version in report.versions
    assert workshop.catalog.dataset_version(old.version) == old  # the list stays
    assert workshop.catalog.withdrawn(old.version) is not None
    assert {piece.id for piece in workshop.version().slices} == {second.id, expected.id}


def test_single_objects_go_and_what_is_not_ours_is_named(workshop: Workshop) -> None:
    report = workshop.take_down([3])
    store = workshop.store
    assert not store.exists("stages/x/both.png")
    assert store.exists("stages/x/other.png")
    assert not list(store.list("captions/"))
    assert not list(store.list("masks/"))
    assert not [key for key in store.list(EXAMPLES) if image_id(3) in example_ids(store, key)]
    assert list(store.list("quarantine/"))  # another image's
    theirs = workshop.folder / "theirs" / "03.jpg"
    assert report.sources == [theirs.as_uri()]
    assert theirs.read_bytes() == photograph(3)
    assert report.alike == [image_id(10)]
    assert workshop.catalog.taken_down() == {image_id(3)}
    found = workshop.catalog.trace_image(image_id(3))
    assert [row.state for row in found.slices] == ["withdrawn"]
    assert [row.asset for row in found.models] == ["pretrained_dit"]
    assert {row.filter for row in found.verdicts} == {"size"}
    assert len(found.sightings) == 2
    assert found.pictures == []


def test_an_order_counts_before_it_is_carried_out(workshop: Workshop) -> None:
    version = workshop.version()
    ids = [image_id(3)]
    order = workshop.catalog.order_takedown("target", "asked to", ids)
    assert workshop.catalog.withdrawn(version.version) == order.why
    (unclean,) = workshop.catalog.unclean_slices()
    assert image_id(3) in workshop.catalog.members(unclean)
    withdraw(workshop.store, workshop.catalog.held(ids), order.why)
    with pytest.raises(Withdrawn, match="asked to"):
        load_version(workshop.store, version.version)
    with pytest.raises(Withdrawn):
        make_version(workshop.store, workshop.slices())
    assert workshop.catalog.order_takedown("target", "asked to", ids).id == order.id  # gone on with, not doubled
    assert [one.id for one in workshop.catalog.unfinished_takedowns()] == [order.id]


def test_a_slice_of_nothing_else_disappears(workshop: Workshop) -> None:
    report = workshop.take_down([6, 7, 8, 9])
    assert [one["new"] for one in report.rewritten] == [None]
    assert [piece.samples for piece in workshop.slices()] == [6]
    for number in (6, 7, 8, 9):
        assert traces_of(workshop.store.folder, number) == []


def test_a_second_order_finds_the_rewritten_slice(workshop: Workshop) -> None:
    workshop.take_down([3])
    again = workshop.catalog.order_takedown("other target", "too", [image_id(4)])
    far = Takedown(workshop.store, workshop.catalog, workshop.state, again, [image_id(4)], elsewhere=lambda: ["far"])
    assert far.run().running == ["far"]
    Takedown(workshop.store, workshop.catalog, workshop.state, again, [image_id(4)]).run()
    assert traces_of(workshop.store.folder, 4) == []
    ids = {row["id"] for row in read_slices(workshop.store, workshop.slices(), workshop.state)}
    assert ids == {image_id(k) for k in (0, 1, 2, 5, 6, 7, 8, 9)}


def test_a_job_that_runs_is_named_and_nothing_is_swept_from_under_it(workshop: Workshop) -> None:
    from infra.jobs.folder import JobFolder

    code = (
        "import sys, time; from pathlib import Path; from infra.jobs.folder import JobFolder\n"
        "with JobFolder(Path(sys.argv[1])).lock():\n    print('held', flush=True); time.sleep(100)\n"
    )
    folder = JobFolder(workshop.state / "jobs" / "pretrained_dit-1")
    child = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        report = workshop.take_down([3])
        assert report.running == ["pretrained_dit-1"]
        assert (folder.path / "tmp" / "slice-x").is_dir()
    finally:
        child.kill()
        child.wait()
    assert workshop.take_down([3]).running == []
    assert traces_of(workshop.state, 3) == []


def test_a_bucket_and_what_its_jobs_keep_on_this_machine(
    s3_store: ObjectStore, catalog_url: str, tmp_path: Path
) -> None:
    """The same over the S3 protocol, where every slice passes through local folders."""

    class Remote(Workshop):
        @property
        def store(self) -> Any:
            return s3_store

    catalog = Catalog(catalog_url)
    shop = Remote(tmp_path, catalog)
    catalog.add_delivery(DELIVERY, "s3://bucket/theirs", "pictures")
    own = f"{s3_store.uri}/deliveries/sample-1/images/3.jpg"
    s3_store.put("deliveries/sample-1/images/3.jpg", photograph(3))
    places = [own, *(f"s3://bucket/theirs/{k:02}.jpg" for k in range(12) if k != 3)]
    catalog.ingest(DELIVERY, [SightingRow(uri=uri, source="shop") for uri in places])
    shop.scan()
    shop.pack([list(range(6)), list(range(6, 10))])
    version = shop.version()
    cache = shop.state / "jobs" / "autoencoder-1" / "save" / "cache"
    assert len(list(read_slices(s3_store, version.slices, cache))) == 10
    assert traces_of(shop.state, 3)
    report = shop.take_down([3, 11])
    probes = [photograph(number)[-400:-368] for number in (3, 11)]
    for key in s3_store.list(""):
        held = s3_store.get(key)
        assert not any(probe in held for probe in probes), key
        assert not (key.endswith(".mds") and image_id(3).encode() in held), key
    assert traces_of(shop.state, 3) == traces_of(shop.state, 11) == []
    assert report.sources == ["s3://bucket/theirs/11.jpg"]
    assert len(list(read_slices(s3_store, shop.version().slices, cache))) == 9
    catalog.close()
