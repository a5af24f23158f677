"""A takedown end to end on a real catalog and a store of files: what it removes, what it leaves, killed anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from assets.curation.takedown import Report, Takedown, withdraw
from infra.catalog import Catalog, SightingRow, models
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.images import encode_jpeg, encode_png
from infra.object_store import DirectoryStore, ObjectStore
from infra.settings import REPOSITORY
from infra.shards import (
    FILTERED_COLUMNS,
    DatasetVersion,
    Slice,
    Withdrawn,
    load_version,
    make_version,
    read_slices,
    shard_places,
    write_slice,
)
from training.latent_slices import EXAMPLES, example_ids, find_latents, latent_key, record_latents

DELIVERY = "spring"
LATENT_COLUMNS = {"id": "str", "latent": "ndarray:float16:2,2"}


def photograph(number: int) -> bytes:
    """A JPEG that no other number gives, in noise that survives compression."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return encode_jpeg(np.kron(coarse, np.ones((8, 8, 1), np.uint8)), 92)


def sample(number: int) -> dict[str, Any]:
    data = photograph(number)
    return {
        "id": sha256_bytes(data),
        "image": data,
        "mask": b"",
        "captions": [f"picture {number}"],
        "attributes": {},
        "width": 64,
        "height": 64,
        "source": "shop",
    }


def image_id(number: int) -> str:
    return sha256_bytes(photograph(number))


@dataclass
class Workshop:
    """Two slices of one delivery (0–5 and 6–9), their latents, a dataset version, a model, and all kinds of copies."""

    folder: Path
    catalog: Catalog

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.folder / "store")

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def slices(self) -> list[Slice]:
        return self.catalog.slices(delivery=DELIVERY)

    def version(self) -> DatasetVersion:
        version = make_version(self.store, self.slices())
        self.catalog.add_dataset_version(version)
        return version

    def fill(self) -> None:
        sources = self.folder / "theirs"
        sources.mkdir()
        rows = []
        for number in range(12):
            path = sources / f"{number:02}.jpg"
            path.write_bytes(photograph(number))
            rows.append(SightingRow(uri=path.as_uri(), etag="1", licence="CC0", source="shop"))
        own = self.store.folder / "deliveries" / "sample-1" / "images" / "3.jpg"
        own.parent.mkdir(parents=True)
        own.write_bytes(photograph(3))
        rows.append(SightingRow(uri=own.as_uri(), etag="1", licence="CC0", source="sample catalogue"))
        self.catalog.add_delivery(DELIVERY, sources.as_uri(), "pictures")
        self.catalog.ingest(DELIVERY, rows)
        self.scan()
        self.pack([list(range(6)), list(range(6, 10))])
        version = self.version()
        self.catalog.record_model("b" * 64, "pretrained_dit", "v", version.version)
        self.examples(version)
        self.copies()

    def scan(self) -> None:
        """What the scan and the decision leave, written straight into the tables: they are what a takedown reads."""
        from sqlalchemy.orm import Session

        self.store.put(f"quarantine/{DELIVERY}/{image_id(11)}", photograph(11))
        self.store.put(f"masks/grabcut@1/{image_id(3)}.png", encode_png(np.zeros((64, 64), np.uint8)))
        with Session(self.catalog.engine) as session, session.begin():
            for row in session.scalars(select(models.Sighting)).all():
                number = int(row.uri.rsplit("/", 1)[-1].split(".")[0])
                name = row.image_id = image_id(number)
                sketch = photograph(number)[:64]
                facts = {"bytes": 9, "format": "jpeg", "width": 64, "height": 64, "phash": number, "sketch": sketch}
                session.merge(models.Image(id=name, **facts))
                verdict = {"filter": "size", "filter_version": "1", "decision": "keep", "reason": ""}
                session.add(models.Verdict(sighting=row.id, delivery=DELIVERY, image_id=name, **verdict))
                if number == 11:
                    bad = {"reason": "corrupt", "detail": "", "bytes": 9, "key": f"quarantine/{DELIVERY}/{name}"}
                    session.add(
                        models.Quarantined(sighting=row.id, delivery=DELIVERY, uri=row.uri, image_id=name, **bad)
                    )
                if number == 3:
                    kept = {"bucket": "", "split": row.split, "sighting": row.id}
                    session.merge(models.Kept(delivery=DELIVERY, image_id=name, **kept))
            mask = {"source": "grabcut@1", "confidence": 0.9, "key": f"masks/grabcut@1/{image_id(3)}.png"}
            session.add(models.Mask(image_id=image_id(3), **mask))
            session.add(models.Caption(image_id=image_id(3), source="model", text="a thing"))
            near = {"distance": 4, "residual": 3.0, "better": False}
            session.add(models.Copy(delivery=DELIVERY, image_id=image_id(10), of=image_id(3), **near))

    def pack(self, numbers: list[list[int]]) -> None:
        pieces = []
        for some in numbers:
            piece = write_slice(self.store, "filtered", FILTERED_COLUMNS, map(sample, some), {"delivery": DELIVERY})
            places = shard_places(self.store, piece)
            members = [(image_id(k), shard, place) for k, (shard, place) in zip(some, places, strict=True)]
            self.catalog.stage_slice(DELIVERY, piece, f"chunk of {len(some)}", members)
            self.latents(piece, some)
            pieces.append(piece)
        self.catalog.commit_slices(DELIVERY, pieces)

    def latents(self, piece: Slice, numbers: list[int]) -> None:
        parts = {"source": piece.id, "autoencoder": "a"}
        rows = [{"id": image_id(k), "latent": np.full((2, 2), k, np.float16)} for k in numbers]
        meta = {"split": "train", "source": piece.id}
        record_latents(self.store, parts, write_slice(self.store, latent_key(parts), LATENT_COLUMNS, rows, meta))

    def examples(self, version: DatasetVersion) -> None:
        import io

        buffer = io.BytesIO()
        np.savez(buffer, ids=np.array([image_id(3), image_id(4)]), images=np.zeros(3))
        self.store.put(f"{EXAMPLES}{version.version}.npz", buffer.getvalue())

    def copies(self) -> None:
        self.store.put(f"captions/model/{image_id(3)}.json", b"{}")
        for name, shows in {"both": [3, 4], "other": [5]}.items():
            self.store.put(f"stages/x/{name}.png", b"png")
            self.catalog.add_shown({f"stages/x/{name}.png": [image_id(k) for k in shows]})
        # What a remote store's jobs keep beside it, and what killed ones leave: a slice never recorded, half a shard,
        # half a file, a temporary folder.
        first = max(self.slices(), key=lambda piece: piece.samples)
        job = self.state / "jobs" / "pretrained_dit-1"
        places = [
            job / "save" / "cache" / first.id,
            job / "tmp" / "slice-x",
            self.store.folder / "filtered" / ("e" * 64),
        ]
        for place in places:
            place.mkdir(parents=True)
            (place / "shard.00000.mds").write_bytes(photograph(3) + photograph(8))
        (self.store.folder / "filtered" / ".writing-0").write_bytes(photograph(3))
        (job / "save" / "delivery" / "images").mkdir(parents=True)
        (job / "save" / "delivery" / "images" / "3.jpg").write_bytes(photograph(3))
        write_slice(self.store, "filtered", FILTERED_COLUMNS, [sample(3), sample(8)], {"delivery": "never recorded"})

    def take_down(self, numbers: list[int]) -> Report:
        ids = [image_id(number) for number in numbers]
        order = self.catalog.order_takedown("target", "asked to", ids)
        report = Takedown(self.store, self.catalog, self.state, order, ids).run()
        self.catalog.finish_takedown(order.id, report.as_dict())
        return report


def traces_of(folder: Path, number: int) -> list[str]:
    """Files below a folder that hold bytes of the photograph, or its id inside a shard."""
    data, name = photograph(number), image_id(number).encode()
    start = data.index(b"\xff\xda") + 14
    probes = [data[at : at + 32] for at in np.linspace(start, len(data) - 34, 6).astype(int)]
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            held = path.read_bytes()
            if any(probe in held for probe in probes) or (path.suffix == ".mds" and name in held):
                found.append(str(path.relative_to(folder)))
    return found


@pytest.fixture
def workshop(tmp_path: Path, catalog_url: str) -> Iterator[Workshop]:
    catalog = Catalog(catalog_url)
    shop = Workshop(tmp_path, catalog)
    shop.fill()
    yield shop
    catalog.close()


def test_the_probes_find_every_copy(workshop: Workshop) -> None:
    # Shard, latents, our delivery, two slices that nobody recorded, and a half-written file.
    assert len(traces_of(workshop.store.folder, 3)) == 6
    assert len(traces_of(workshop.state, 3)) == 3  # cache, temporary folder, the rendered delivery's local copy
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


_KILLED = """
import os, signal, sys
from pathlib import Path
from infra.object_store import DirectoryStore, ObjectStore
from infra.catalog import Catalog
from assets.curation.takedown import Takedown
import infra.object_store as module

left = int(sys.argv[4])

def counted(function):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

class Killing(DirectoryStore):
    put, put_file = counted(DirectoryStore.put), counted(DirectoryStore.put_file)
    delete = counted(DirectoryStore.delete)

class Dying(Catalog):
    replace_slice, forget_images = counted(Catalog.replace_slice), counted(Catalog.forget_images)
    forget_shown = counted(Catalog.forget_shown)

catalog = Dying(sys.argv[2])
ids = sys.argv[3].split(",")
order = catalog.order_takedown("target", "asked to", ids)
Takedown(Killing(Path(sys.argv[1]) / "store"), catalog, Path(sys.argv[1]) / "state", order, ids).run()
print("done")
"""


@pytest.mark.integration
def test_killed_at_any_step_and_run_again(workshop: Workshop) -> None:
    ids = ",".join(image_id(number) for number in (3, 7, 11))
    command = [sys.executable, "-c", _KILLED, str(workshop.folder), workshop.catalog.url, ids]
    killed = 0
    for step in (0, 2, 5, 6, 7, 9, 12, 14, 16, 19, 22, 200):
        done = subprocess.run([*command, str(step)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
    assert killed >= 4
    for number in (3, 7, 11):
        assert traces_of(workshop.store.folder, number) == traces_of(workshop.state, number) == []
    pieces = [
        write_slice(workshop.store, "filtered", FILTERED_COLUMNS, map(sample, some), {"delivery": DELIVERY})
        for some in ([0, 1, 2, 4, 5], [6, 8, 9])
    ]
    assert {piece.id for piece in workshop.slices()} == {piece.id for piece in pieces}
    for piece in pieces:
        assert find_latents(workshop.store, {"source": piece.id, "autoencoder": "a"}) is not None
    assert os.listdir(workshop.state) == ["jobs"]


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


def test_targets(workshop: Workshop, tmp_path: Path) -> None:
    from orchestration.takedown import find_images

    catalog, theirs = workshop.catalog, workshop.folder / "theirs"
    assert find_images(catalog, image_id(3)) == ([image_id(3)], [])
    assert find_images(catalog, str(theirs / "04.jpg")) == ([image_id(4)], [])
    assert find_images(catalog, theirs.as_uri() + "/0")[0] == sorted(image_id(k) for k in range(10))
    assert find_images(catalog, "sample cat")[0] == [image_id(3)]
    copy = tmp_path / "a copy.jpg"
    copy.write_bytes(photograph(5))
    assert find_images(catalog, str(copy)) == ([image_id(5)], [])
    new = tmp_path / "new.jpg"
    new.write_bytes(photograph(50))
    catalog.add_delivery("next", "file:///next", "pictures")
    catalog.ingest("next", [SightingRow(uri=new.as_uri()), SightingRow(uri="file:///next/gone.jpg")])
    assert find_images(catalog, str(new)) == ([image_id(50)], [])  # listed, not scanned: its bytes tell
    for nothing in ("", " ", "0" * 64, "s3://nowhere/", "file:///next/gone"):
        with pytest.raises(BackdropError):
            find_images(catalog, nothing)


def test_a_model_is_traced_to_its_pictures(workshop: Workshop) -> None:
    version = workshop.version().version
    counts = workshop.catalog.origin_counts(version)
    assert sum(count.images for count in counts) == 10
    assert {(count.delivery, count.kind, count.licence) for count in counts} == {(DELIVERY, "pictures", "CC0")}
    origins = list(workshop.catalog.origins(version))
    assert {origin.image_id for origin in origins} == {image_id(k) for k in range(10)}
    assert all(origin.uri.startswith("file://") for origin in origins)
