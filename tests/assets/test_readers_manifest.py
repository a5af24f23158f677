"""A manifest given as the delivery: JSONL and parquet, on disk and in a bucket, and its bad rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.object_store import ObjectStore, read_uri
from tests.assets.deliveries import JPEG, deliver, lines, read, refusal


def parquet(**columns: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def test_jsonl_names_files_anywhere(tmp_path: Path) -> None:
    deliver(tmp_path, {"far/a.jpg": JPEG, "near/b.jpg": JPEG, "near/unlisted.jpg": JPEG})
    table = lines(
        {"uri": (tmp_path / "far/a.jpg").as_uri(), "caption": "one", "split": "holdout", "mask": "m.png"},
        {"path": "b.jpg", "captions": ["x", "y"], "licence": "CC0", "attributes": {"n": 1}},
        {"url": "../far/a.jpg", "text": "two"},
        {"path": str(tmp_path / "far/gone.jpg")},
    )
    b, a, gone = read(deliver(tmp_path, {"near/list.jsonl": table}) / "near/list.jsonl")
    assert read_uri(a.uri) == read_uri(b.uri) == JPEG
    assert (a.captions, a.split, a.bytes) == (("one", "two"), "holdout", len(JPEG))
    assert a.mask_uri == (tmp_path / "near/m.png").as_uri()
    assert (b.captions, b.licence, b.attributes) == (("x", "y"), "CC0", {"n": 1})
    assert b.etag.startswith(f"{len(JPEG)}-")
    assert (gone.bytes, gone.etag, gone.problem) == (None, "", "")  # vanished: whoever reads it says so


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_manifest_in_a_bucket(kind: str, s3_store: ObjectStore) -> None:
    s3_store.put("pictures/a.jpg", JPEG)
    uris = [f"{s3_store.uri}/pictures/a.jpg", "../pictures/a.jpg", "/etc/passwd", "file:///etc/passwd", None]
    captions = ["one", "two", "three", "four", "five"]
    if kind == "parquet":
        s3_store.put("lists/m.parquet", parquet(uri=uris, caption=captions))
    else:
        s3_store.put(
            "lists/m.jsonl",
            lines(*map(lambda *row: dict(zip(("uri", "caption"), row, strict=True)), uris, captions)).encode(),
        )
    found = read(f"{s3_store.uri}/lists/m.{kind}")
    (fine,) = (item for item in found if not item.problem)
    assert (fine.uri, fine.captions) == (uris[0], ("one", "two"))
    assert read_uri(fine.uri) == JPEG
    problems = [item.problem for item in found if item.problem]
    assert ["one machine" in problem for problem in problems] == [True, True, False]
    assert "5: no 'path'" in problems[2]


def test_parquet_of_every_type(tmp_path: Path) -> None:
    table = parquet(
        url=["a.jpg", "b.jpg", "c.jpg"],
        captions=[["x", "y"], None, []],
        attributes=pa.array([[("k", 1.5)], None, [("k", float("nan"))]], pa.map_(pa.string(), pa.float64())),
        image=[b"bytes", b"that are", b"not read"],
    )
    found = read(deliver(tmp_path, {"m.parquet": table}) / "m.parquet")
    assert [(item.captions, item.attributes) for item in found] == [
        (("x", "y"), {"k": 1.5}),
        ((), {}),
        ((), {"k": None}),
    ]


def test_manifests_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parquet(path=["a.jpg"] * 10, caption=["words"] * 10)
    files: dict[str, bytes | str] = {
        "empty.jsonl": "\n\n",
        "empty.parquet": parquet(path=pa.array([], pa.string())),
        "cut.parquet": whole[: len(whole) // 2],
        "text.parquet": "words",
        "columns.parquet": parquet(key=["a.jpg"], jpg=[b""]),
        "none.jsonl": lines({"caption": "x"}, {"caption": "y"}),
        "whole.parquet": whole,
    }
    deliver(tmp_path, files)
    assert "no rows" in refusal(tmp_path / "empty.jsonl")
    assert "no rows" in refusal(tmp_path / "empty.parquet")
    assert "cut.parquet is not a whole parquet" in refusal(tmp_path / "cut.parquet")
    assert "text.parquet is not a whole parquet" in refusal(tmp_path / "text.parquet")
    assert "no column uri, url or path; it has key, jpg" in refusal(tmp_path / "columns.parquet")
    assert "none.jsonl, line 1: no 'path'" in refusal(tmp_path / "none.jsonl")
    assert "gone.jsonl" in refusal(tmp_path / "gone.jsonl")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs the package pyarrow" in refusal(tmp_path / "whole.parquet")


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    deliver(tmp_path, {"m.jsonl": b'{"x": "' + b"x" * (20 << 20) + b'"}\n' + lines({"path": "a.jpg"}).encode()})
    fine, problem = sorted(read(tmp_path / "m.jsonl"), key=lambda item: item.problem)
    assert fine.uri.endswith("/a.jpg")
    assert "line 1: not valid JSON" in problem.problem
