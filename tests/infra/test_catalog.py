"""The catalog on a real PostgreSQL."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from infra.catalog import Catalog, SightingRow, VerdictRow, migrate
from infra.catalog.models import Base
from infra.catalog.rows import MaskRow, QuarantineRow, ScannedRow
from infra.errors import BackdropError, ServiceError
from infra.shards import DatasetVersion, Slice

pytestmark = pytest.mark.integration


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    catalog = Catalog(catalog_url)
    catalog.add_delivery("monday", "file:///photos", "pictures")
    yield catalog
    catalog.close()


def image(number: int) -> str:
    return f"{number:064x}"


def sighting(number: int, **fields: object) -> SightingRow:
    row = SightingRow(
        uri=f"file:///photos/{number:06d}.jpg",
        etag=f"{number}",
        licence="CC0",
        source="test",
        captions=["a red vase", "vase"],
        attributes={"wall": "blue"},
    )
    return replace(row, **fields)  # type: ignore[arg-type]


def scanned(number: int, sighting: int, **fields: object) -> ScannedRow:
    row = ScannedRow(sighting, image(number), 1000 + number, "jpeg", 64, 48, phash=number, sketch=bytes(432))
    return replace(row, **fields)  # type: ignore[arg-type]


def verdict(row: SightingRow, decision: str = "keep", name: str = "size") -> VerdictRow:
    return VerdictRow(row.id, row.image_id, name, "1", decision, 0.5, "because", {"side": 64})


def scan_all(catalog: Catalog, delivery: str = "monday", drop: tuple[int, ...] = ()) -> list[SightingRow]:
    """Scans every sighting as the image that its URI numbers; those in `drop` are dropped as too small."""
    rows = list(catalog.sightings(delivery))
    numbers = [int(row.uri.rsplit("/", 1)[-1].split(".")[0].split("-")[0]) for row in rows]
    found = [scanned(number, row.id) for number, row in zip(numbers, rows, strict=True)]
    judged = [
        verdict(replace(row, image_id=image(number)), "drop" if number in drop else "keep")
        for number, row in zip(numbers, rows, strict=True)
    ]
    catalog.commit_scan(delivery, "slice", found, judged)
    return list(catalog.sightings(delivery))


def keep_all(catalog: Catalog, delivery: str, compared: bool = True) -> list[str]:
    """Decides without looking for near duplicates; ids of what is kept, in the order of precedence."""
    with catalog.deciding(delivery) as connection:
        catalog.drop_exact(connection, delivery, compared)
        rows = list(catalog.candidates(connection, delivery))
        kept = [("1x1", row.split, row.image_id, row.sighting) for row in rows]
        catalog.write_decision(connection, delivery, [], [], kept)
    return [row.image_id for row in rows]


def piece(name: str, split: str = "train", samples: int = 2) -> Slice:
    return Slice(id=name, prefix=f"filtered/{name}", samples=samples, split=split)


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_migrations_make_exactly_the_models_tables(catalog: Catalog) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == migrate.HEAD


def test_check_constraints_are_in_the_migrations_too(catalog: Catalog) -> None:
    named = {
        constraint.name
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if constraint.__visit_name__ == "check_constraint"
    }
    with catalog.engine.connect() as connection:
        found = set(connection.scalars(text("SELECT conname FROM pg_constraint WHERE contype = 'c'")))
    assert named <= found


def test_upgrading_is_idempotent_and_safe_at_once(database_url: str) -> None:
    def upgrade(_: int) -> None:
        catalog = Catalog(database_url)
        catalog.upgrade()
        catalog.close()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(upgrade, range(3)))
    upgrade(0)


def test_a_catalog_of_a_newer_version_is_refused(catalog: Catalog) -> None:
    with catalog.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BackdropError, match=r"revision 9999.*does not know"):
        catalog.upgrade()


# ── deliveries and sightings ──────────────────────────────────────────────────────────────────────────────────────


def test_deliveries(catalog: Catalog) -> None:
    catalog.add_delivery("monday", "file:///moved", "other")
    catalog.add_delivery("friday", "s3://bucket/x", "pictures")
    assert [delivery.name for delivery in catalog.list_deliveries()] == ["friday", "monday"]
    monday = catalog.delivery("monday")
    assert monday is not None
    assert (monday.uri, monday.kind, monday.state) == ("file:///moved", "pictures", "open")
    assert monday.added_at.tzinfo is not None
    assert catalog.delivery("sunday") is None


def test_sightings_come_back_as_they_went_in(catalog: Catalog) -> None:
    rows = [sighting(1), sighting(2, split="holdout", mask_uri="m.png"), sighting(3, problem="no URI")]
    assert catalog.ingest("monday", reversed(rows)) == 3
    assert [replace(row, id=0) for row in catalog.sightings("monday")] == rows
    assert catalog.count_sightings("monday") == 3
    assert catalog.delivery("monday").state == "ingested"  # type: ignore[union-attr]


def test_ingesting_again_is_idempotent_and_follows_the_folder(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(1), sighting(2)])
    first = scan_all(catalog)
    catalog.ingest("monday", [sighting(1), sighting(2)])
    assert list(catalog.sightings("monday")) == first
    assert len(list(catalog.verdicts("monday"))) == 2
    catalog.ingest("monday", [sighting(2, captions=["new"]), sighting(3)])
    found = list(catalog.sightings("monday"))
    assert [row.image_id for row in found] == [image(2), None]
    assert found[0].captions == ["new"]
    assert [row.image_id for row in catalog.verdicts("monday")] == [image(2)]


def test_what_changed_has_to_be_scanned_again(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(1), sighting(2)])
    scan_all(catalog)
    catalog.ingest("monday", [sighting(1, etag="newer"), sighting(2)])
    assert [row.image_id for row in catalog.sightings("monday")] == [None, image(2)]


def test_one_uri_counts_once(catalog: Catalog) -> None:
    again = sighting(1, uri="file:///photos/copy.jpg")
    assert catalog.ingest("monday", [sighting(1), again, sighting(1, licence="last wins")]) == 2
    assert [row.licence for row in catalog.sightings("monday")] == ["last wins", "CC0"]


def test_text_that_postgresql_cannot_hold_is_cleaned(catalog: Catalog) -> None:
    row = sighting(
        1,
        source="a\0b\\t\tc\nd\re",
        captions=["x\0\ud800y", "é", "\\N", "tab\there"],
        attributes={"score": math.nan, "deep": {"k\0": ["\0"]}},
    )
    catalog.ingest("monday", [row])
    (found,) = catalog.sightings("monday")
    assert found.source == "ab\\t\tc\nd\re"
    assert found.captions == ["x?y", "é", "\\N", "tab\there"]
    assert found.attributes == {"score": None, "deep": {"k": [""]}}


def test_an_ingest_that_fails_changes_nothing(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(1)])

    def rows() -> Iterator[SightingRow]:
        yield sighting(2)
        raise RuntimeError("the folder vanished")

    with pytest.raises(RuntimeError):
        catalog.ingest("monday", rows())
    assert [row.uri for row in catalog.sightings("monday")] == [sighting(1).uri]


def test_an_unknown_delivery_is_named(catalog: Catalog) -> None:
    with pytest.raises(BackdropError, match="'sunday' is not in the catalog"):
        catalog.ingest("sunday", [sighting(1)])
    with pytest.raises(BackdropError, match="'sunday' is not in the catalog"):
        catalog.commit_slices("sunday", [])


# ── scan and decision ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_scan_is_written_whole_and_may_be_repeated(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(number) for number in range(3)])
    rows = list(catalog.sightings("monday"))
    bad = QuarantineRow(rows[2].id, rows[2].uri, image(2), "truncated", "cut at half", 900, "quarantine/monday/x")
    found = [scanned(0, rows[0].id), scanned(1, rows[1].id, cleaned=["clean"]), scanned(2, rows[2].id, phash=None)]
    for _ in range(2):
        seen = [replace(row, image_id=image(k)) for k, row in enumerate(rows)]
        catalog.commit_scan("monday", "s", found, [verdict(row) for row in seen], [bad])
    assert [row.image_id for row in catalog.sightings("monday")] == [image(0), image(1), image(2)]
    assert catalog.scanned_slices("monday") == {"s"}
    assert catalog.quarantine("monday") == [bad]
    assert next(catalog.verdicts("monday")) == verdict(seen[0])
    assert catalog.verdict_counts("monday") == {"size": {"keep": 3}}
    catalog.forget_scans("monday", ["s"])
    assert catalog.scanned_slices("monday") == set()


def test_quarantine_is_tried_again_slice_by_slice(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(number) for number in range(3)])
    for row in catalog.sightings("monday"):
        bad = [QuarantineRow(row.id, row.uri, None, "truncated", "", 0, "")] if row.etag == "1" else []
        catalog.commit_scan("monday", f"slice {row.etag}", [ScannedRow(row.id, None)], [], bad)
    assert catalog.retry_quarantine("monday") == 1
    assert catalog.scanned_slices("monday") == {"slice 0", "slice 2"}
    assert catalog.retry_quarantine("friday") == 0
    with catalog.engine.begin() as connection:  # found by an earlier version, which did not say where
        connection.execute(text("UPDATE quarantine SET slice_id = ''"))
    assert catalog.retry_quarantine("monday") == 1
    assert catalog.scanned_slices("monday") == set()


def test_slices_with_the_same_images_are_written_at_once(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(n, uri=f"file:///{k}/{n:03d}.jpg") for k in range(4) for n in range(200)])
    rows = list(catalog.sightings("monday"))

    def commit(part: int) -> None:
        some = rows[part * 200 : part * 200 + 200]
        found = [scanned(199 - k if part % 2 else k, row.id, size=5, phash=part) for k, row in enumerate(some)]
        catalog.commit_scan("monday", str(part), found, [verdict(row) for row in some])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(commit, range(4)))
    assert catalog.scanned_slices("monday") == {"0", "1", "2", "3"}


def test_a_decision_must_be_a_known_one(catalog: Catalog) -> None:
    from psycopg.errors import CheckViolation
    from sqlalchemy.exc import IntegrityError

    catalog.ingest("monday", [sighting(0)])
    with pytest.raises((IntegrityError, CheckViolation), match="ck_verdicts_decision"):
        catalog.write_verdicts("monday", [verdict(row, "maybe") for row in catalog.sightings("monday")])


def test_exact_copies_go_and_a_held_out_one_stays(catalog: Catalog) -> None:
    rows = [sighting(1), sighting(1, uri="file:///photos/000001-b.jpg", split="holdout"), sighting(2), sighting(3)]
    catalog.ingest("monday", rows)
    scan_all(catalog, drop=(3,))
    assert keep_all(catalog, "monday") == [image(1), image(2)]
    kept = list(catalog.keep_list("monday"))
    assert [(row.split, row.uri[-12:]) for row in kept] == [("holdout", "000001-b.jpg"), ("train", "s/000002.jpg")]
    assert catalog.verdict_counts("monday")["exact duplicate"] == {"drop": 1, "fix": 1, "keep": 2}


def test_what_another_delivery_keeps_is_not_kept_again(catalog: Catalog) -> None:
    catalog.add_delivery("friday", "s3://bucket/x", "pictures")
    catalog.add_delivery("drawn", "sample://tiny", "sample")
    for name in ("drawn", "monday", "friday"):
        catalog.ingest(name, [sighting(1), sighting(2 if name != "friday" else 4)])
        scan_all(catalog, name)
    assert keep_all(catalog, "drawn", compared=False) == [image(1), image(2)]
    assert keep_all(catalog, "monday") == [image(1), image(2)]
    assert keep_all(catalog, "friday") == [image(4)]
    assert keep_all(catalog, "monday") == [image(1), image(2)]  # not lost to the later one
    with catalog.deciding("friday") as connection:
        assert list(catalog.known_hashes(connection, "friday")) == [(image(1), 1, 64 * 48), (image(2), 2, 64 * 48)]
        assert catalog.sketches(connection, [image(1), image(9)]) == {image(1): bytes(432)}


def test_hashes_of_64_bits_come_back_as_they_went_in(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(number) for number in range(3)])
    rows = list(catalog.sightings("monday"))
    hashes = [0, (1 << 64) - 1, 1 << 63]
    catalog.commit_scan("monday", "s", [scanned(k, row.id, phash=hashes[k]) for k, row in enumerate(rows)], [])
    with catalog.deciding("monday") as connection:
        assert {row.image_id: row.phash for row in catalog.candidates(connection, "monday")} == {
            image(k): value for k, value in enumerate(hashes)
        }


def test_written_captions_and_cut_masks_reach_the_keep_list(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(1), sighting(2, captions=[]), sighting(3, captions=[], mask_uri="m.png")])
    scan_all(catalog)
    keep_all(catalog, "monday")
    assert [row.image_id for row in catalog.uncaptioned("monday", "vlm", every=False)] == [image(2), image(3)]
    assert len(list(catalog.uncaptioned("monday", "vlm", every=True))) == 3
    catalog.commit_captions("vlm", {image(1): "a vase", image(2): "a cup"})
    assert [row.image_id for row in catalog.uncaptioned("monday", "vlm", every=False)] == [image(3)]
    catalog.commit_masks([MaskRow(image(2), "grabcut", 0.9, "masks/2.png"), MaskRow(image(3), "grabcut", 0.9, "x")])
    rows = {row.image_id: row for row in catalog.keep_list("monday", "grabcut", "vlm")}
    assert rows[image(1)].captions == ["a red vase", "vase", "a vase"]
    assert rows[image(2)].captions == ["a cup"]
    assert (rows[image(2)].mask_key, rows[image(2)].mask_confidence) == ("masks/2.png", 0.9)
    assert rows[image(3)].mask_key == ""  # it came with one
    assert next(catalog.keep_list("monday")).captions == ["a red vase", "vase"]


# ── slices, versions, models ──────────────────────────────────────────────────────────────────────────────────────


def test_staged_slices_count_once_they_are_committed(catalog: Catalog) -> None:
    catalog.add_delivery("friday", "s3://bucket/x", "pictures")
    catalog.commit_slices("friday", [piece("f")])
    for name, split in (("a", "train"), ("b", "holdout"), ("c", "train")):
        catalog.stage_slice("monday", piece(name, split), f"chunk {name}", [(image(1), "shard.00000.mds", 0)])
        catalog.stage_slice("monday", piece(name, split), f"chunk {name}", [(image(1), "shard.00000.mds", 0)])
    assert [found.id for found in catalog.slices()] == ["f"]
    assert catalog.staged_slices("monday")["chunk b"] == piece("b", "holdout")
    catalog.commit_slices("monday", [piece("a"), piece("b", "holdout")])
    assert [found.id for found in catalog.slices()] == ["f", "b", "a"]
    assert catalog.slices("train") == [piece("f"), piece("a")]
    assert catalog.slices(delivery="monday", split="holdout") == [piece("b", "holdout")]
    catalog.commit_slices("monday", [piece("c")])
    assert [found.id for found in catalog.slices(delivery="monday")] == ["c"]
    catalog.commit_slices("monday", [piece("a")])
    assert [found.id for found in catalog.slices(delivery="monday")] == ["a"]
    assert catalog.members("b") == [image(1)]
    assert catalog.delivery("monday").state == "filtered"  # type: ignore[union-attr]


def test_no_model_learned_from_what_was_held_out(catalog: Catalog) -> None:
    catalog.add_delivery("monday", "s3://bucket/x", "pictures")
    for number, split in ((1, "train"), (2, "holdout")):
        name = f"slice {number}"
        catalog.stage_slice("monday", piece(name, split), name, [(image(number), "shard.00000.mds", 0)])
    catalog.commit_slices("monday", [piece("slice 1"), piece("slice 2", "holdout")])
    catalog.add_dataset_version(DatasetVersion("v1", (piece("slice 1"), piece("slice 2", "holdout")), 4))
    catalog.record_model(id="m", asset="autoencoder", data_version="d", dataset_version="v1", mlflow_run="r1")
    for number, trained in ((1, True), (2, False)):
        found = catalog.trace_image(image(number))
        assert [(row.version, row.trained) for row in found.versions] == [("v1", trained)]
        assert [row.id for row in found.models] == (["m"] if trained else [])


def test_versions_and_models(catalog: Catalog) -> None:
    version = DatasetVersion("v1", (piece("a"), piece("b", "holdout")), 4)
    catalog.add_dataset_version(version)
    catalog.add_dataset_version(version)
    assert catalog.dataset_version("v1") == version
    assert catalog.dataset_version("v2") is None
    catalog.record_model(id="m", asset="autoencoder", data_version="d", dataset_version="v1", mlflow_run="r1")
    catalog.record_model(id="m", asset="autoencoder", data_version="d", dataset_version="v1", mlflow_run="r2")
    (model,) = catalog.models("v1")
    assert (model.id, model.asset, model.mlflow_run) == ("m", "autoencoder", "r2")
    assert catalog.models("v2") == []


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_that_is_away_is_one_clear_error() -> None:
    catalog = Catalog("postgresql://me:hunter2@127.0.0.1:9/catalog")
    with pytest.raises(ServiceError, match=r"database 'catalog' on 127\.0\.0\.1:9") as caught:
        catalog.upgrade()
    assert "hunter2" not in str(caught.value)


def test_another_database_is_refused() -> None:
    with pytest.raises(BackdropError, match="not name a PostgreSQL database"):
        Catalog("sqlite:///x")
