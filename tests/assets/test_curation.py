"""The verbs `ingest` and `filter` on small deliveries: what is kept, what is said of the rest, and twice the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from assets.curation import drift, ingest
from assets.curation import filter as filter_verb
from assets.curation.catalogue import open_catalog
from assets.curation.specs import CurationSection, FilterSpec, IngestSpec
from assets.curation.suite import CHECKS
from assets.sample_catalogue.renderer import render
from infra.catalog import Catalog
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.images import decode, encode_jpeg, encode_png
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import DirectoryStore, ObjectStore
from infra.shards import Slice, read_slices
from infra.tiles import SMALL_BYTES

pytestmark = pytest.mark.integration

SAMPLE = "sample://tiny?count=150&holdout=10&size=64&seed=4&dirt=0.2"


class Bench:
    """A catalog, a store and the two verbs, run in this process."""

    def __init__(self, url: str, store: ObjectStore, folder: Path) -> None:
        self.catalog = Catalog(url)
        self.store = store
        self.folder = folder

    def ingest(self, delivery: str, uri: str) -> JobResult:
        kind = "sample" if uri.startswith("sample:") else "folder"
        self.catalog.add_delivery(delivery, uri, kind)
        spec = IngestSpec(store=self.store.uri, output=f"out/{delivery}/ingest", delivery=delivery, uri=uri)
        return ingest.run(spec, JobContext(spec, self.store, spec.output, self.folder))

    def filter(self, delivery: str, image_size: int = 64, **config: Any) -> JobResult:
        spec = FilterSpec(
            store=self.store.uri,
            output=f"out/{delivery}/filter",
            delivery=delivery,
            image_size=image_size,
            config=CurationSection(**config),
        )
        return filter_verb.run(spec, JobContext(spec, self.store, spec.output, self.folder))

    def rows(self, result: JobResult) -> list[dict[str, Any]]:
        pieces = [Slice(**piece) for piece in result.data["slices"]]
        return list(read_slices(self.store, pieces, self.folder / "cache"))


@pytest.fixture
def bench(catalog_url: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    (tmp_path / "job").mkdir()
    return Bench(catalog_url, store, tmp_path / "job")


def test_a_rendered_delivery_from_its_uri_to_its_shards(bench: Bench) -> None:
    took = bench.ingest("sample", SAMPLE)
    assert took.data["files"] == 150 + 30 + 10
    result = bench.filter("sample", slice_size=64)

    truth = result.data["truth"]
    assert truth["clean"] == {"files": 160, "dropped": 0, "by": {}}
    for kind in ("corrupt", "truncated", "duplicate", "too small", "not an image"):
        assert truth["kinds"][kind]["dropped"] == truth["kinds"][kind]["planted"] > 0, kind
    assert truth["kinds"]["near duplicate"]["dropped"] >= truth["kinds"]["near duplicate"]["planted"] - 1

    pieces = result.data["slices"]
    assert {piece["split"] for piece in pieces} == {"train", "holdout"}
    assert all(piece["samples"] <= 2 * 64 for piece in pieces)
    assert sum(piece["samples"] for piece in pieces if piece["split"] == "holdout") == 10
    rows = bench.rows(result)
    assert len({row["id"] for row in rows}) == len(rows) == result.data["images"]
    for row in rows[:5]:
        assert decode(row["image"]).shape == (row["height"], row["width"], 3) == (64, 64, 3)
        assert row["mask"]
        assert row["captions"]
        assert row["attributes"]["wall"]

    funnel = result.data["funnel"]
    assert (funnel[0]["seen"], funnel[-1]["left"]) == (190, len(rows))
    assert all(step["seen"] - step["dropped"] == step["left"] for step in funnel)
    assert [check.name for check in result.checks] == [*CHECKS, *drift.CHECKS]
    assert all(check.passed for check in result.checks)
    assert b"<html" in bench.store.get(result.files["report"]).lower()
    assert b"<html" in bench.store.get(result.files["data docs"]).lower()
    for key in result.pictures.values():
        assert decode(bench.store.get(key)).ndim == 3
    own = {check.name: check.pictures for check in result.checks if check.pictures}
    assert own.keys() == {"most_files_decode", "most_files_are_kept"}
    for key in [key for pictures in own.values() for key in pictures.values()]:
        assert decode(bench.store.get(key)).std() > 0
        assert len(bench.store.get(key)) <= SMALL_BYTES
    assert json.loads(bench.store.get(result.files["truth"])) == truth

    counts = bench.catalog.verdict_counts("sample")
    assert counts["decode"]["drop"] == next(step["dropped"] for step in funnel if step["filter"] == "decode")
    assert len(bench.catalog.quarantine("sample")) == counts["decode"]["drop"]
    assert {piece.id for piece in bench.catalog.slices(delivery="sample")} == {piece["id"] for piece in pieces}
    assert len(bench.catalog.members(pieces[0]["id"])) == pieces[0]["samples"]


def test_twice_is_the_same(bench: Bench, tmp_path: Path) -> None:
    first_ingest, first = bench.ingest("sample", SAMPLE), bench.filter("sample")
    assert isinstance(bench.store, DirectoryStore)
    before = {key: bench.store.get(key) for key in bench.store.list("filtered/")}
    second_ingest, second = bench.ingest("sample", SAMPLE), bench.filter("sample")
    assert second_ingest.data == first_ingest.data
    assert second.data == first.data
    assert second.checks == first.checks
    assert {key: bench.store.get(key) for key in bench.store.list("filtered/")} == before
    other = Bench(bench.catalog.url, DirectoryStore(tmp_path / "other"), bench.folder)
    other.ingest("sample", SAMPLE)
    assert other.filter("sample").data["slices"] == first.data["slices"]


def test_scanning_and_packing_can_be_shared_out(bench: Bench, tmp_path: Path) -> None:
    bench.ingest("sample", SAMPLE)

    def part(verb: Callable[[FilterSpec, JobContext], JobResult], number: int, parts: int) -> JobResult:
        section = CurationSection(slice_size=8, workers=1)
        places = {"store": bench.store.uri, "output": "out/part", "delivery": "sample", "image_size": 64}
        spec = FilterSpec(**places, config=section, part=number, parts=parts)
        return verb(spec, JobContext(spec, bench.store, spec.output, bench.folder))

    for number in (2, 0, 1):
        part(filter_verb.scan_part, number, 3)
    kept = part(filter_verb.decide_whole, 0, 1).data["kept"]
    packed = [part(filter_verb.pack_part, number, 2).data["slices"] for number in (1, 0)]
    assert all(packed)  # the slices' hashes share them out: of so many none stays without, bar one time in millions
    assert bench.catalog.slices(delivery="sample") == []  # nothing counts before `filter` has found all of it done
    before = {key: bench.store.get(key) for key in bench.store.list("filtered/")}
    shared = bench.filter("sample", slice_size=8, workers=1)
    assert {key: bench.store.get(key) for key in bench.store.list("filtered/")} == before
    assert (shared.data["images"], len(shared.data["slices"])) == (kept, sum(packed))
    alone = Bench(bench.catalog.url, DirectoryStore(tmp_path / "alone"), bench.folder)
    alone.ingest("sample", SAMPLE)
    assert alone.filter("sample", slice_size=8, workers=1).data["slices"] == shared.data["slices"]


def test_a_bucket_holds_the_same(bench: Bench, s3_store: ObjectStore, tmp_path: Path) -> None:
    uri = "sample://tiny?count=20&holdout=2&size=32&seed=4&dirt=0"
    results = []
    for number, store in enumerate((bench.store, s3_store)):
        folder = tmp_path / f"job-{number}"
        folder.mkdir()
        on = Bench(bench.catalog.url, store, folder)
        on.ingest("bucket", uri)
        results.append(on.filter("bucket", 32).data["slices"])
        assert len(on.rows(JobResult(data={"slices": results[-1]}))) == 22
    assert results[0] == results[1]


def photograph(index: int, size: int = 160) -> np.ndarray:
    return render(11, index, size).image


def deliver(folder: Path, pictures: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_photographs_gets_masks_or_is_listed(bench: Bench, tmp_path: Path) -> None:
    rng, crowd = np.random.default_rng(0), np.full((160, 160, 3), 128, np.uint8)
    for _ in range(80):  # many things and no product
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.circle(crowd, tuple(int(value) for value in rng.integers(0, 160, 2)), int(rng.integers(6, 16)), colour, -1)
    light = np.linspace(0.5, 1.2, 160)[:, None, None]
    crowd = (crowd * light + rng.normal(0, 6, crowd.shape)).clip(0, 255).astype(np.uint8)
    mask = encode_png((render(11, 1, 160).product_mask * 255).astype(np.uint8))
    folder = deliver(
        tmp_path / "photos",
        {
            **{f"p{k}.jpg": encode_jpeg(photograph(k)) for k in range(6)},
            "p1.mask.png": mask,
            "crowd.jpg": encode_jpeg(crowd),
            "cut.jpg": encode_jpeg(photograph(9))[:2000],
            "large.jpg": encode_jpeg(photograph(7, 400)),
            "captions.jsonl": b'{"path": "p0.jpg", "caption": "a thing"}\n{"path": "gone.jpg", "caption": "x"}\n',
        },
    )
    took = bench.ingest("photos", str(folder))
    assert (took.data["files"], took.data["problems"], took.data["without_caption"]) == (10, 1, 8)
    result = bench.filter("photos", 64, max_side=256, mask_confidence=0.9)
    rows = {row["source"].rsplit("/", 1)[-1]: row for row in bench.rows(result)}
    assert "cut.jpg" not in rows
    assert rows["p1.jpg"]["mask"] == mask
    assert (rows["large.jpg"]["width"], decode(rows["large.jpg"]["image"]).shape) == (256, (256, 256, 3))
    assert rows["p0.jpg"]["image"] == (folder / "p0.jpg").read_bytes()
    assert rows["p0.jpg"]["captions"] == ["a thing"]
    assert result.data["truth"] == {}
    unsure = {entry["uri"].rsplit("/", 1)[-1] for entry in result.data["unsure_masks"]}
    assert "crowd.jpg" in unsure
    assert unsure == {name for name, row in rows.items() if not row["mask"]}
    assert bench.catalog.verdict_counts("photos")["mask"]["unsure"] == len(unsure)
    failed = {check.name for check in result.checks if not check.passed}
    assert {"captions_are_present", "licences_are_stated"} <= failed
    assert all(check.severity == "warn" for check in result.checks if not check.passed)
    # Each check that a picture does not meet shows its own, and a takedown of that picture finds it there.
    own = {check.name: key for check in result.checks if (key := check.pictures.get(check.failures_title))}
    about = {"captions_are_present", "licences_are_stated", "masks_are_present", "most_files_decode"}
    assert own.keys() == about | {"most_files_are_kept"}
    crowd = sha256_bytes((folder / "crowd.jpg").read_bytes())
    showing = {name for name, key in own.items() if key in bench.catalog.held([crowd]).pictures}
    assert showing == {"captions_are_present", "licences_are_stated", "masks_are_present"}


def test_a_later_delivery_is_held_against_what_was_kept(bench: Bench, tmp_path: Path) -> None:
    first = deliver(tmp_path / "first", {f"a{k}.jpg": encode_jpeg(photograph(k)) for k in range(4)})
    second = deliver(
        tmp_path / "second",
        {
            "same.jpg": encode_jpeg(photograph(0)),
            "near.jpg": encode_jpeg(photograph(1), 60),
            "new.jpg": encode_jpeg(photograph(8)),
        },
    )
    for name, folder in (("first", first), ("second", second)):
        bench.ingest(name, str(folder))
        result = bench.filter(name, 64)
    assert [row["source"].rsplit("/", 1)[-1] for row in bench.rows(result)] == ["new.jpg"]
    dropped = {step["filter"]: step["dropped"] for step in result.data["funnel"]}
    assert (dropped["exact duplicate"], dropped["near duplicate"]) == (1, 1)
    # The earlier delivery does not lose to the later one when it is filtered again.
    assert bench.filter("first", 64).data["images"] == 4


def test_a_delivery_with_nothing_good_says_so(bench: Bench, tmp_path: Path) -> None:
    folder = deliver(tmp_path / "bad", {"a.jpg": b"<html>", "b.jpg": b""})
    bench.ingest("bad", str(folder))
    result = bench.filter("bad", 64)
    assert result.data["images"] == 0
    checks = {check.name: check for check in result.checks}
    assert not checks["something_is_kept"].passed
    assert checks["something_is_kept"].severity == "error"


def test_filtering_what_was_never_ingested_is_refused(bench: Bench) -> None:
    with pytest.raises(BackdropError, match="raw_images"):
        bench.filter("nobody")


def test_no_catalog_is_one_clear_message(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKDROP_CATALOG_URL", raising=False)
    with pytest.raises(BackdropError, match="BACKDROP_CATALOG_URL"):
        open_catalog()


def test_an_unknown_key_of_the_section_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_sise"):
        CurationSection.model_validate({"min_sise": 3})
