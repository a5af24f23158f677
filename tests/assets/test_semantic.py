"""Semantic duplicates and embedding drift, with a real ONNX embedder and a real pgvector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psycopg
import pytest
from onnx import TensorProto, helper
from sqlalchemy import make_url, text

from assets.curation import filter as filter_verb
from assets.curation import semantic
from assets.curation.decide import Candidates, Known
from assets.curation.drift import checks, compare_delivery
from assets.curation.embedder import Embedder, choose_embedder, embedder_id
from assets.curation.filters.base import Picture
from assets.curation.filters.settings import EmbedderSection, OpenClipModel
from assets.curation.specs import CurationSection, FilterSpec
from assets.sample_catalogue.renderer import render
from infra.catalog import Catalog, SightingRow
from infra.catalog.rows import EmbeddingRow, ScannedRow, VerdictRow
from infra.database import Postgres
from infra.errors import BackdropError
from infra.files import sha256_bytes, sha256_file
from infra.images import encode_png
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore
from tests.assets.test_curation import Bench, deliver
from tests.assets.test_filters_scorers import Served

SEMANTIC = semantic.SEMANTIC
PLAIN: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (1, 1, 1)}


def save_encoder(path: Path, axes: list[int], side: int = 16) -> Path:
    """An encoder of pictures: their planes, averaged over some axes."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("Flatten", ["mean"], ["embedding"], axis=1 if 0 not in axes else 0),
    ]
    graph = helper.make_graph(nodes, "encoder", [image], [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def rows_encoder(tmp_path: Path) -> dict[str, Any]:
    """Settings of an embedder that sees each row's mean colour: a mirrored picture is the same one to it, though not
    to the search for near duplicates."""
    return {"onnx": str(save_encoder(tmp_path / "rows.onnx", [3])), "threshold": 0.9999, **PLAIN}


@pytest.fixture
def bench(catalog_url: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    (tmp_path / "job").mkdir()
    made = Bench(catalog_url, store, tmp_path / "job")
    yield made
    made.catalog.close()


QUICK: dict[str, Any] = {"workers": 1, "masks": False, "skip": ("text overlay",)}


def decide(bench: Bench, delivery: str, **config: Any) -> JobResult:
    """Scans and decides, without packing and without the report."""
    places = {"store": bench.store.uri, "output": f"out/{delivery}", "delivery": delivery, "image_size": 64}
    spec = FilterSpec(**places, config=CurationSection(**QUICK, **config))
    job = JobContext(spec, bench.store, spec.output, bench.folder)
    filter_verb.scan_part(spec, job)
    return filter_verb.decide_whole(spec, job)


def kept(bench: Bench, delivery: str) -> list[str]:
    """Names of the files that are kept."""
    return sorted(row.uri.rsplit("/", 1)[-1] for row in bench.catalog.keep_list(delivery))


def judged(bench: Bench, delivery: str) -> dict[str, VerdictRow]:
    """Verdicts on semantic duplicates by file name."""
    names = {row.id: row.uri.rsplit("/", 1)[-1] for row in bench.catalog.sightings(delivery)}
    return {names[row.sighting]: row for row in bench.catalog.verdicts(delivery, [SEMANTIC])}


def embeddings(catalog: Catalog) -> list[Any]:
    query = "SELECT image_id, embedder, embedding::text, xmin::text FROM embeddings ORDER BY image_id, embedder"
    with catalog.engine.connect() as connection:
        return list(connection.execute(text(query)))


def picture(index: int, size: int = 160, mirrored: bool = False) -> bytes:
    image = render(11, index, size).image
    return encode_png(np.ascontiguousarray(image[:, ::-1]) if mirrored else image)


# ── deliveries ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.integration
def test_what_a_model_takes_for_the_same_goes_and_the_best_stays(
    bench: Bench, tmp_path: Path, rows_encoder: dict[str, Any]
) -> None:
    files = {"a.png": picture(0), "mirrored.png": picture(0, 200, mirrored=True), "b.png": picture(1)}
    bench.ingest("shop", str(deliver(tmp_path / "shop", files)))

    assert decide(bench, "shop").data["kept"] == 3  # no embedder: not done, and said so
    assert {row.decision for row in judged(bench, "shop").values()} == {"not scored"}
    assert judged(bench, "shop")["a.png"].reason == "not scored: no embedder is configured"
    with bench.catalog.engine.connect() as connection:
        assert connection.scalar(text("SELECT to_regclass('embeddings')")) is None

    assert decide(bench, "shop", embedder=rows_encoder).data["kept"] == 2
    assert kept(bench, "shop") == ["b.png", "mirrored.png"]
    found = judged(bench, "shop")
    larger = found["mirrored.png"].image_id or ""
    assert found["a.png"].decision == "drop"
    assert found["a.png"].reason.startswith(f"semantic duplicate of {larger[:12]}: similarity 1.0000")
    assert found["a.png"].score == pytest.approx(1, abs=1e-4)
    assert (found["b.png"].decision, found["mirrored.png"].score) == ("keep", None)
    (copy,) = bench.catalog.copies("shop")
    assert (copy.image_id, copy.of, copy.distance, copy.better) == (found["a.png"].image_id, larger, None, False)

    before = embeddings(bench.catalog)
    assert len(before) == 3
    for row in before:
        assert np.linalg.norm(np.fromstring(row[2].strip("[]"), sep=",")) == pytest.approx(1, abs=1e-6)
    bench.catalog.forget_scans("shop", bench.catalog.scanned_slices("shop"))
    result = bench.filter("shop", **QUICK, embedder=rows_encoder)
    assert embeddings(bench.catalog) == before  # not made again, not written again
    assert judged(bench, "shop") == found
    assert result.data["funnel"][-1]["filter"] == SEMANTIC
    page = bench.store.get(result.files["report"]).decode()
    assert "1 semantic copies of 1 pictures" in page.replace("0 near and ", "")
    assert "similarity 1.000" in page
    assert "similarity to the nearest kept picture" in page


@pytest.mark.integration
def test_a_better_copy_in_a_later_delivery_is_recorded_and_not_swapped(
    bench: Bench, tmp_path: Path, rows_encoder: dict[str, Any]
) -> None:
    later = {"mirrored.png": picture(0, 200, mirrored=True), "new.png": picture(2)}
    for name, files in {"first": {"a.png": picture(0)}, "second": later}.items():
        bench.ingest(name, str(deliver(tmp_path / name, files)))
        decide(bench, name, embedder=rows_encoder)
    assert (kept(bench, "first"), kept(bench, "second")) == (["a.png"], ["new.png"])
    assert judged(bench, "second")["mirrored.png"].reason.endswith("a better copy, recorded and not swapped")
    assert [copy.better for copy in bench.catalog.copies("second")] == [True]
    decide(bench, "first", embedder=rows_encoder)
    assert kept(bench, "first") == ["a.png"]
    # Rendered catalogues are compared with no other delivery.
    bench.catalog.add_delivery("rendered", "", "sample")
    bench.ingest("rendered", str(tmp_path / "second"))
    decide(bench, "rendered", embedder=rows_encoder)
    assert kept(bench, "rendered") == ["mirrored.png", "new.png"]


def candidates(count: int) -> tuple[Candidates, Known]:
    ids, zeros = np.array([f"{k:064x}".encode() for k in range(count)], "S64"), np.zeros(count, np.int64)
    own = Candidates(ids, zeros, zeros.astype(np.uint64), zeros + 9, zeros.astype(np.uint8), zeros.astype(bool))
    return own, Known(np.array([b"%064x" % (count + k) for k in range(50)], "S64"), zeros[:50], zeros[:50] + 5)


@pytest.mark.parametrize("portion", [7, 64, 4096])
def test_portions_change_nothing(portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, (own, known) = np.random.default_rng(3), candidates(200)
    rows = rng.normal(size=(250, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    among = np.arange(0, 200, 2)
    without = f"{4:064x}"

    def read(ids: Any) -> dict[str, np.ndarray]:
        return {one: rows[int(one, 16)] for one in ids if one != without}

    monkeypatch.setattr(semantic, "_PORTION", portion)
    found = semantic.find_nearest(own, known, among, read, 0.97, lambda _: None)
    expected, stays = {}, [*range(200, 250)]
    for index in among.tolist():
        if index != 4:
            nearest = max(stays, key=lambda other: round(float(rows[index] @ rows[other]), 6))
            similarity = float(rows[index] @ rows[nearest])
            if similarity >= 0.97:
                expected[index] = f"{nearest:064x}"
            else:
                stays.append(index)
            assert found.similarity[index] == pytest.approx(similarity, abs=2e-6)
    copies = semantic.copies(own, known, found, 0.97)
    assert {index: row.of for index, row in copies.items()} == expected
    assert all(row.better == (int(row.of, 16) >= 200) for row in copies.values())
    assert 20 < len(expected) < 90
    verdicts = list(semantic.verdicts(own, among, found, copies, "e"))
    assert [row.reason for row in verdicts if row.decision == "not scored"] == ["not scored: it has no embedding"]
    assert sum(row.decision == "drop" for row in verdicts) == len(expected)


# ── the catalog ───────────────────────────────────────────────────────────────────────────────────────────────────


def add(catalog: Catalog, delivery: str, vectors: np.ndarray, embedder: str = "e") -> list[str]:
    """A delivery whose pictures have these embeddings, all kept; the images' ids."""
    catalog.add_delivery(delivery, "file:///x", "folder")
    catalog.ingest(delivery, [SightingRow(f"file:///{delivery}/{k:04}.jpg") for k in range(len(vectors))])
    rows = list(catalog.sightings(delivery))
    ids = [sha256_bytes(row.uri.encode()) for row in rows]
    scanned = [ScannedRow(row.id, one, 9, "jpeg", 64, 64, 1, b"") for row, one in zip(rows, ids, strict=True)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    embedded = [EmbeddingRow(one, embedder, vector.tolist()) for one, vector in zip(ids, unit, strict=True)]
    catalog.commit_scan(delivery, "slice", scanned, [], embeddings=embedded)
    with catalog.deciding(delivery) as connection:
        keep = [("1x1", "train", one, row.id) for one, row in zip(ids, rows, strict=True)]
        catalog.write_decision(connection, delivery, [], [], keep)
    return ids


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    made = Catalog(catalog_url)
    made.make_embeddings()
    made.make_embeddings()  # may be repeated
    yield made
    made.close()


@pytest.mark.integration
def test_embeddings_come_back_as_they_went_in(catalog: Catalog) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 700)).astype(np.float32)  # too large to stay in a row
    ids = add(catalog, "a", vectors)
    add(catalog, "b", np.eye(3), embedder="another")
    with catalog.deciding("a") as connection:
        found = catalog.embeddings(connection, "e", [*ids[:3], "nobody"])
    assert set(found) == set(ids[:3])
    for k, one in enumerate(ids[:3]):
        assert np.allclose(found[one], vectors[k] / np.linalg.norm(vectors[k]), atol=1e-7)
    means = catalog.embedding_means("e", ["a", "b"])
    assert set(means) == {"a"}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert means["a"][0] == 5
    assert np.allclose(means["a"][1], unit.mean(axis=0), atol=1e-7)


@pytest.mark.integration
def test_a_takedown_deletes_embeddings_and_none_comes_back(catalog: Catalog) -> None:
    ids = add(catalog, "a", np.eye(3))
    catalog.order_takedown("target", "asked to", [ids[1]])
    catalog.forget_images([ids[1]])
    assert catalog.embedded("e", ids) == {ids[0], ids[2]}
    add(catalog, "a", np.eye(3))  # a scan that had begun before
    assert catalog.embedded("e", ids) == {ids[0], ids[2]}


@pytest.mark.integration
def test_other_pictures_drift_and_more_of_the_same_do_not(catalog: Catalog) -> None:
    rng, centre = np.random.default_rng(1), np.r_[2.0, np.zeros(15)]

    def like(centre: np.ndarray, count: int) -> np.ndarray:
        return centre + rng.normal(size=(count, 16))

    add(catalog, "monday", like(centre, 80))
    add(catalog, "tuesday", like(centre, 60))
    add(catalog, "same", like(centre, 50))
    add(catalog, "other", like(centre[::-1], 50))

    def check(delivery: str, embedder: str = "e") -> Any:
        return checks(compare_delivery(catalog, delivery, embedder))[-1]

    assert check("same").passed
    assert check("same").metadata["shift"] < 0.25
    drifted = check("other")
    assert (drifted.name, drifted.passed, drifted.severity) == ("embedding_drift", False, "warn")
    assert check("other", "").metadata["note"] == "no embeddings to compare"
    assert check("other", "another").passed  # nothing that it embedded


@pytest.mark.integration
def test_without_the_extension_only_who_has_an_embedder_is_stopped(postgres: Postgres) -> None:
    # The role may do everything in its database, but not make extensions: as most roles of most servers.
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE ROLE keeper LOGIN PASSWORD 'secret'")
        connection.execute("CREATE DATABASE kept OWNER keeper")
    url = make_url(postgres.url("kept")).set(username="keeper", password="secret").render_as_string(hide_password=False)
    catalog = Catalog(url)
    try:
        catalog.upgrade()
        catalog.forget_images(["0" * 64])  # a takedown does without the table
        with pytest.raises(BackdropError, match=r"extension 'vector': permission denied") as caught:
            catalog.make_embeddings()
        assert "CREATE EXTENSION vector" in caught.value.remedy
        assert "curation.embedder" in caught.value.remedy
    finally:
        catalog.close()
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute("DROP DATABASE kept WITH (FORCE)")
            connection.execute("DROP ROLE keeper")


# ── embedders ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_embedder_is_known_by_its_weights_and_settings(tmp_path: Path) -> None:
    first = save_encoder(tmp_path / "one.onnx", [3])
    again = save_encoder(tmp_path / "two.onnx", [3])
    other = save_encoder(tmp_path / "three.onnx", [2, 3])
    name = embedder_id(EmbedderSection(onnx=str(first), sha256=sha256_file(first)))
    assert name == embedder_id(EmbedderSection(onnx=str(again), threshold=0.5))
    assert name != embedder_id(EmbedderSection(onnx=str(other)))
    assert name != embedder_id(EmbedderSection(onnx=str(first), **PLAIN))
    assert choose_embedder(EmbedderSection()) is None
    assert embedder_id(EmbedderSection()) == ""
    with pytest.raises(BackdropError, match="have the SHA-256"):
        embedder_id(EmbedderSection(onnx=str(first), sha256="0" * 64))
    with pytest.raises(BackdropError, match="there is no embedder at"):
        embedder_id(EmbedderSection(onnx=str(tmp_path / "gone.onnx")))


def test_settings_that_make_no_embedder_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no head"):
        EmbedderSection(open_clip=OpenClipModel(architecture="ViT-B-32", checkpoint="x", head="y"))
    with pytest.raises(ValueError, match="that of a weights file"):
        EmbedderSection(endpoint="http://127.0.0.1", sha256="0" * 64)
    with pytest.raises(ValueError, match="treshold"):
        CurationSection.model_validate({"embedder": {"treshold": 1}})


def test_the_whole_picture_is_embedded_and_has_length_one(tmp_path: Path) -> None:
    embedder = Embedder(EmbedderSection(onnx=str(save_encoder(tmp_path / "mean.onnx", [2, 3])), **PLAIN))
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, :60] = 255  # beside the centre, red is all there is
    pixels[:, 60:, 0] = 255
    found = embedder.embed(Picture("0", pixels))
    assert (found.shape, found.dtype) == ((3,), np.float32)
    assert found == pytest.approx([1, 0, 0], abs=1e-3)
    flat = Embedder(EmbedderSection(onnx=str(save_encoder(tmp_path / "grid.onnx", [1], 16)), **PLAIN))
    assert flat.embed(Picture("0", pixels)).shape == (256,)
    grey = np.full((32, 32, 3), 255, np.uint8)
    nothing = Embedder(
        EmbedderSection(onnx=str(save_encoder(tmp_path / "m.onnx", [2, 3])), mean=(1, 1, 1), std=(1, 1, 1))
    )
    with pytest.raises(BackdropError, match="length 0 as an embedding"):
        nothing.embed(Picture("0", grey))


def test_an_endpoint_embeds() -> None:
    handler = type("Handler", (Served,), {"script": [(503, b""), (200, b'{"embedding": [3, 4]}')], "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        embedder = Embedder(EmbedderSection(endpoint=f"http://127.0.0.1:{listening.server_port}/embed"))
        shown = Picture("0", np.full((20, 20, 3), 90, np.uint8))
        assert embedder.embed(shown) == pytest.approx([0.6, 0.8])
        with pytest.raises(BackdropError, match="instead of an embedding"):
            embedder.embed(shown)  # it answers with a score
        listening.shutdown()
