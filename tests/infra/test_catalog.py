"""The catalog on a real PostgreSQL."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from infra.catalog import Catalog, SightingRow, VerdictRow, migrate
from infra.catalog.models import Base
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
        image_id=image(number),
        bytes=1000 + number,
        format="JPEG",
        width=64,
        height=48,
        licence="CC0",
        source="test",
        captions=["a red vase", "vase"],
        attributes={"wall": "blue"},
    )
    return replace(row, **fields)  # type: ignore[arg-type]


def verdict(number: int, decision: str = "keep", name: str = "size") -> VerdictRow:
    return VerdictRow(image(number), name, "1", decision, 0.5, "because")


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
    rows = [
        sighting(1),
        sighting(2, split="holdout", mask_uri="m.png"),
        sighting(3, image_id=None, bytes=0, format="", width=0, height=0),
    ]
    assert catalog.ingest("monday", reversed(rows)) == 3
    assert list(catalog.sightings("monday")) == rows
    assert catalog.delivery("monday").state == "ingested"  # type: ignore[union-attr]


def test_ingesting_again_is_idempotent_and_follows_the_folder(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(1), sighting(2)])
    catalog.write_verdicts("monday", [verdict(1), verdict(2)])
    catalog.ingest("monday", [sighting(1), sighting(2)])
    assert len(list(catalog.verdicts("monday"))) == 2
    catalog.ingest("monday", [sighting(2, captions=["new"]), sighting(3)])
    found = list(catalog.sightings("monday"))
    assert [row.image_id for row in found] == [image(2), image(3)]
    assert found[0].captions == ["new"]
    assert [row.image_id for row in catalog.verdicts("monday")] == [image(2)]


def test_one_image_may_be_sighted_often(catalog: Catalog) -> None:
    again = sighting(1, uri="file:///photos/copy.jpg")
    assert catalog.ingest("monday", [sighting(1), again, sighting(1, licence="last wins")]) == 2
    assert [row.licence for row in catalog.sightings("monday")] == ["last wins", "CC0"]


def test_text_that_postgresql_cannot_hold_is_cleaned(catalog: Catalog) -> None:
    row = sighting(
        1, source="a\0b", captions=["x\0\ud800y", "é"], attributes={"score": math.nan, "deep": {"k\0": ["\0"]}}
    )
    catalog.ingest("monday", [row])
    (found,) = catalog.sightings("monday")
    assert found.source == "ab"
    assert found.captions == ["x?y", "é"]
    assert found.attributes == {"score": None, "deep": {"k": [""]}}


def test_an_ingest_that_fails_changes_nothing(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(1)])

    def rows() -> Iterator[SightingRow]:
        yield sighting(2)
        raise RuntimeError("the folder vanished")

    with pytest.raises(RuntimeError):
        catalog.ingest("monday", rows())
    assert [row.image_id for row in catalog.sightings("monday")] == [image(1)]


def test_an_unknown_delivery_is_named(catalog: Catalog) -> None:
    with pytest.raises(BackdropError, match="'sunday' is not in the catalog"):
        catalog.ingest("sunday", [sighting(1)])
    with pytest.raises(BackdropError, match="'sunday' is not in the catalog"):
        catalog.commit_slices("sunday", [])


def test_ten_thousand_rows_take_well_under_two_seconds(catalog: Catalog) -> None:
    began = time.monotonic()
    assert catalog.ingest("monday", (sighting(number) for number in range(10_000))) == 10_000
    catalog.write_verdicts("monday", (verdict(number) for number in range(10_000)))
    assert time.monotonic() - began < 4  # both together; 0.7 s on an idle core


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_verdicts_are_replaced_counted_and_cleared(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(number) for number in range(4)])
    catalog.write_verdicts("monday", [verdict(0), verdict(1, "drop"), verdict(2, "drop")])
    assert catalog.write_verdicts("monday", [verdict(2, "keep"), verdict(2, "unsure"), verdict(2, name="blur")]) == 3
    assert catalog.verdict_counts("monday") == {"blur": {"keep": 1}, "size": {"drop": 1, "keep": 1, "unsure": 1}}
    assert next(catalog.verdicts("monday")) == verdict(0)
    catalog.clear_verdicts("monday")
    assert catalog.verdict_counts("monday") == {}


def test_a_decision_must_be_one_of_four(catalog: Catalog) -> None:
    from psycopg.errors import CheckViolation
    from sqlalchemy.exc import IntegrityError

    catalog.ingest("monday", [sighting(0)])
    with pytest.raises((IntegrityError, CheckViolation), match="ck_verdicts_decision"):
        catalog.write_verdicts("monday", [verdict(0, "maybe")])


# ── slices, versions, models ──────────────────────────────────────────────────────────────────────────────────────


def test_a_new_commit_replaces_the_deliverys_slices(catalog: Catalog) -> None:
    catalog.add_delivery("friday", "s3://bucket/x", "pictures")
    catalog.ingest("monday", [sighting(1), sighting(2)])
    catalog.commit_slices("friday", [piece("f")])
    catalog.commit_slices("monday", [piece("a"), piece("b", "holdout")], {"a": [image(1)], "b": [image(2)]})
    assert [found.id for found in catalog.slices()] == ["f", "b", "a"]
    assert catalog.slices("train") == [piece("f"), piece("a")]
    assert catalog.slices(delivery="monday", split="holdout") == [piece("b", "holdout")]
    catalog.commit_slices("monday", [piece("c")], {"c": [image(1)]})
    assert [found.id for found in catalog.slices(delivery="monday")] == ["c"]
    catalog.commit_slices("monday", [piece("a")], {"a": [image(1)]})
    assert [found.id for found in catalog.slices(delivery="monday")] == ["a"]
    assert catalog.members("b") == [image(2)]
    assert catalog.delivery("monday").state == "filtered"  # type: ignore[union-attr]


def test_kept_phashes_are_those_in_other_deliveries_slices(catalog: Catalog) -> None:
    catalog.ingest("monday", [sighting(number) for number in range(3)])
    hashes = {image(0): 0, image(1): (1 << 64) - 1, image(2): 1 << 63}
    catalog.set_phashes(hashes)
    catalog.commit_slices("monday", [piece("a")], {"a": [image(1), image(2)]})
    assert catalog.kept_phashes("friday") == {image(1): (1 << 64) - 1, image(2): 1 << 63}
    assert catalog.kept_phashes("monday") == {}


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
