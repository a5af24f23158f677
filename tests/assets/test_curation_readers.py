"""What a delivery contains, and one clear message for each way in which it can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from assets.curation.ingest import parse_sample_uri, read_item
from assets.curation.readers import Item, read_delivery
from assets.curation.specs import CatalogueSection
from infra.errors import BackdropError
from infra.images import encode_jpeg, encode_png

JPEG = encode_jpeg(np.full((40, 40, 3), 90, np.uint8))
MASK = encode_png(np.full((40, 40), 255, np.uint8))


def deliver(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def items(folder: Path | str) -> dict[str, Item]:
    return {item.uri.rsplit("/", 1)[-1]: item for item in read_delivery(str(folder))}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def message(folder: Path | str) -> str:
    with pytest.raises(BackdropError) as caught:
        list(read_delivery(str(folder)))
    assert caught.value.remedy
    return caught.value.what


def test_every_picture_is_found_whether_listed_or_not(tmp_path: Path) -> None:
    table = lines({"path": "images/a.jpg", "caption": "a"})
    deliver(tmp_path, {"images/a.jpg": JPEG, "originals/b.JPG": JPEG, "notes.md": "x", "manifest.jsonl": table})
    assert set(items(tmp_path)) == {"a.jpg", "b.JPG"}


def test_captions_come_from_every_place_once(tmp_path: Path) -> None:
    deliver(
        tmp_path,
        {
            "a.jpg": JPEG,
            "a.txt": "from text\nsecond line\n",
            "a.json": json.dumps({"caption": "from json", "attributes": {"colour": "red"}}),
            "captions.jsonl": lines({"path": "a.jpg", "caption": "from captions"}),
            "manifest.jsonl": lines(
                {"path": "a.jpg", "captions": ["from manifest", "from captions"], "license": "CC0", "split": "holdout"}
            ),
        },
    )
    item = items(tmp_path)["a.jpg"]
    assert set(item.captions) == {"from text", "second line", "from json", "from captions", "from manifest"}
    assert len(item.captions) == 5
    assert (item.attributes["colour"], item.licence, item.split) == ("red", "CC0", "holdout")


def test_empty_captions_are_none(tmp_path: Path) -> None:
    table = lines({"path": "a.jpg", "caption": None}, {"path": "b.jpg", "caption": "  "})
    deliver(tmp_path, {"a.jpg": JPEG, "b.jpg": JPEG, "captions.jsonl": table})
    assert [item.captions for item in items(tmp_path).values()] == [(), ()]


def test_masks_are_no_pictures(tmp_path: Path) -> None:
    table = lines({"path": "a.jpg", "mask": "masks/a.png"})
    deliver(tmp_path, {"a.jpg": JPEG, "masks/a.png": MASK, "b.jpg": JPEG, "b.mask.png": MASK, "manifest.jsonl": table})
    found = items(tmp_path)
    assert set(found) == {"a.jpg", "b.jpg"}
    assert str(found["a.jpg"].mask_uri).endswith("masks/a.png")
    assert str(found["b.jpg"].mask_uri).endswith("b.mask.png")


def test_odd_file_names_survive(tmp_path: Path) -> None:
    names = ["with space.jpg", "ünïcode 图.jpg", "per%20cent.jpg", "hash#1.jpg"]
    table = lines(*({"path": name, "caption": name} for name in names))
    deliver(tmp_path, {**dict.fromkeys(names, JPEG), "captions.jsonl": table})
    found = list(read_delivery(tmp_path.as_uri()))
    assert sorted(item.captions[0] for item in found) == sorted(names)
    assert {read_item(item, "x").bytes for item in found} == {len(JPEG)}


def test_a_listed_picture_that_is_missing_is_an_item_without_bytes(tmp_path: Path) -> None:
    table = lines({"path": "a.jpg"}, {"path": "gone.jpg"})
    deliver(tmp_path, {"a.jpg": JPEG, "manifest.jsonl": table})
    row = read_item(items(tmp_path)["gone.jpg"], "unspecified")
    assert (row.image_id, row.bytes) == (None, 0)


def test_places_that_hold_nothing(tmp_path: Path) -> None:
    assert "nowhere" in message(tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    assert "void is empty" in message(tmp_path / "void")
    deliver(tmp_path / "papers", {"letter.odt": "dear"})
    assert "no picture" in message(tmp_path / "papers")
    assert "letter.odt" in message(tmp_path / "papers")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"path": "a.jpg", ', "not valid JSON"),
        ("[1]", "no 'path'"),
        ('{"caption": "x"}', "no 'path'"),
        ('{"path": "a.jpg", "caption": 5}', "not a string"),
        ('{"path": "a.jpg", "split": "test"}', "'test'"),
        ('{"path": "../../etc/passwd"}', "not below"),
        ('{"path": "a.jpg", "attributes": 1}', "not an object"),
    ],
)
def test_a_broken_table_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    deliver(tmp_path, {"a.jpg": JPEG, "captions.jsonl": lines({"path": "a.jpg"}) + line + "\n"})
    what = message(tmp_path)
    assert "captions.jsonl, line 2" in what
    assert said in what


def test_broken_sidecars_are_named(tmp_path: Path) -> None:
    deliver(tmp_path / "one", {"a.jpg": JPEG, "a.txt": b"\xff\xfe\xff"})
    assert "a.txt" in message(tmp_path / "one")
    deliver(tmp_path / "two", {"a.jpg": JPEG, "a.json": "{"})
    assert "a.json" in message(tmp_path / "two")
    deliver(tmp_path / "three", {"a.jpg": JPEG, "manifest.jsonl": lines({"path": "a.jpg", "mask": "m.png"})})
    assert "m.png" in message(tmp_path / "three")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    deliver(tmp_path, {"a.jpg": JPEG, "b.jpg": JPEG})
    item = items(tmp_path)["b.jpg"]
    path = tmp_path / "b.jpg"
    if os.geteuid() == 0:  # root may read everything: a link to itself cannot be read by anybody
        path.unlink()
        path.symlink_to(path)
    else:
        path.chmod(0)
    with pytest.raises(BackdropError, match=r"b\.jpg"):
        read_item(item, "x")


def test_a_prefix_of_a_bucket_is_a_delivery(s3_store: object, tmp_path: Path) -> None:
    from infra.s3 import S3Store

    assert isinstance(s3_store, S3Store)
    s3_store.put("batch/images/a b.jpg", JPEG)
    s3_store.put("batch/captions.jsonl", lines({"path": "images/a b.jpg", "caption": "blue"}).encode())
    found = list(read_delivery(f"{s3_store.uri}/batch"))
    assert [item.captions for item in found] == [("blue",)]
    assert read_item(found[0], "x").width == 40
    assert "empty" in message(f"{s3_store.uri}/nothing-here")


def test_a_bucket_that_is_closed_or_missing_is_named(s3_store: object) -> None:
    assert "no-such-bucket" in message("s3://no-such-bucket/images")


def test_the_sample_catalogue_is_ordered_by_its_uri() -> None:
    options = parse_sample_uri("sample://nano?count=10&seed=3&dirt=0.2", CatalogueSection(holdout=7))
    assert (options.count, options.seed, options.dirt, options.holdout) == (10, 3, 0.2, 7)
    with pytest.raises(BackdropError, match="Did you mean 'count'"):
        parse_sample_uri("sample://nano?coun=10")
    with pytest.raises(BackdropError, match="'size'"):
        parse_sample_uri("sample://nano?size=two")
