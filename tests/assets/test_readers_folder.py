"""Folders and prefixes: which names are pictures, odd names, order, what a listing tells."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from assets.curation.readers import read_delivery
from assets.curation.readers.items import HEAD, looks_like_picture, may_be_picture
from infra.errors import BackdropError
from infra.object_store import ObjectStore, read_uri
from infra.uris import list_objects
from tests.assets.deliveries import JPEG, PNG, deliver, lines, read, refusal

ODD = ["with space.jpg", "hash#1.jpg", "per%20cent.jpg", "plus+1.jpg", "new\nline.jpg", "ünïcode 图.jpg", "q?a=1&b.jpg"]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_odd_names_lead_to_their_bytes_and_captions(place: str, tmp_path: Path, s3_store: ObjectStore) -> None:
    names = [name for name in ODD if place == "folder" or "\n" not in name]  # the test's server routes no line end
    table = lines(*({"path": name, "caption": name} for name in names))
    files = {name: JPEG + name.encode() for name in names} | {"captions.jsonl": table.encode()}
    if place == "folder":
        root = str(deliver(tmp_path / "odd # 100%", dict(files)))
    else:
        root = f"{s3_store.uri}/odd # 100%"
        for name, data in files.items():
            s3_store.put(f"odd # 100%/{name}", data)
    found = read(root)
    assert sorted(item.captions[0] for item in found) == sorted(names)
    assert all(read_uri(item.uri) == JPEG + item.captions[0].encode() for item in found)
    assert not any(item.problem for item in found)


def test_a_name_that_is_not_utf8_has_bytes_side_files_and_a_source_for_the_catalog(tmp_path: Path) -> None:
    deliver(tmp_path, {os.fsdecode(b"caf\xe9.jpg"): JPEG, os.fsdecode(b"caf\xe9.txt"): "a café"})
    (item,) = read(tmp_path)
    assert item.uri.isascii()
    assert read_uri(item.uri) == JPEG
    assert item.captions == ("a café",)
    item.source.encode()  # PostgreSQL takes UTF-8 only


def test_files_without_a_suffix_are_looked_at_and_hidden_ones_are_not(tmp_path: Path, s3_store: ObjectStore) -> None:
    files: dict[str, bytes | str] = {
        "noextension": PNG,
        "noextension.txt": "a caption beside it",
        "photo.jpg_large": JPEG,
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0",
        "README": "words",
        "empty": b"",
        "clip.mp4": JPEG,  # a suffix that is known not to be a picture's is believed
        ".hidden.jpg": JPEG,
        ".git/a.jpg": JPEG,
        "sub/._a.jpg": JPEG,
        "BMW": "BMW is a word, BM a magic number",
    }
    deliver(tmp_path, files)
    for name, data in files.items():
        s3_store.put(f"d/{name}", data if isinstance(data, bytes) else data.encode())
    for root in (str(tmp_path), f"{s3_store.uri}/d"):
        found = {item.uri.rsplit("/", 1)[-1]: item for item in read(root)}
        assert set(found) == {"noextension", "photo.jpg_large", "phone.heic"}
        assert found["noextension"].captions == ("a caption beside it",)


def test_only_unknown_suffixes_cost_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.curation.readers import pictures

    looked: list[str] = []

    def read_head(uri: str, size: int) -> bytes:
        looked.append(uri.rsplit("/", 1)[-1])
        return read_uri(uri)[:size]

    monkeypatch.setattr(pictures, "read_head", read_head)
    deliver(tmp_path, {"a.jpg": JPEG, "b.JPEG": JPEG, "c.txt": "x", "d.mp4": b"x", "e": PNG, "f.mask.png": PNG})
    assert len(read(tmp_path)) == 3
    assert looked == ["e"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.JPG", True), ("a.txt", False), ("a", None), ("a.mask.png", False), ("x/.a.jpg", False), ("a.v1", None)],
)
def test_what_a_name_tells(name: str, expected: bool | None) -> None:
    assert may_be_picture(name) is expected


def test_what_the_first_bytes_tell() -> None:
    for head in (JPEG, PNG, b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"BM\x36\0\0\0\0\0\0\0\x36", b"\0\0\0\x20ftypavif"):
        assert looks_like_picture(head[:HEAD])
    for head in (b"", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x20ftypisom", b"BMW cars", b"%PDF-1.7", b"\x1f\x8b"):
        assert not looks_like_picture(head[:HEAD])


def test_the_order_is_that_of_the_names_bytes_wherever_the_delivery_lies(tmp_path: Path, s3_store: ObjectStore) -> None:
    names = ["b.jpg", "a/c.jpg", "a-b.jpg", "a0.jpg", "a/b/z.jpg", "ab/é.jpg", "ab/z.jpg", "Z.jpg"]
    deliver(tmp_path, dict.fromkeys(names, JPEG))
    for name in reversed(names):
        s3_store.put(f"d/{name}", JPEG)
    local = [item.source.removeprefix(f"{tmp_path.as_uri()}/") for item in read(tmp_path)]
    remote = [item.uri.removeprefix(f"{s3_store.uri}/d/") for item in read(f"{s3_store.uri}/d")]
    assert remote == sorted(names, key=str.encode)
    assert [name.replace("%C3%A9", "é") for name in local] == remote


def test_size_and_etag_come_with_the_listing_and_tell_of_a_change(tmp_path: Path, s3_store: ObjectStore) -> None:
    deliver(tmp_path, {"a.jpg": JPEG})
    s3_store.put("d/a.jpg", JPEG)
    roots = (str(tmp_path), f"{s3_store.uri}/d")
    before = [item for root in roots for item in read(root)]
    assert [item.bytes for item in before] == [len(JPEG)] * 2
    assert [item for root in roots for item in read(root)] == before
    os.utime(tmp_path / "a.jpg", ns=(1, 1))
    s3_store.put("d/a.jpg", JPEG[:-1] + b"\xd8")
    after = [item for root in roots for item in read(root)]
    assert all(new.etag != old.etag != "" for new, old in zip(after, before, strict=True))


def test_two_captions_for_one_picture_are_both_kept_in_order(tmp_path: Path) -> None:
    table = lines({"path": "a.jpg", "caption": "second line of the alphabet"}, {"path": "a.jpg", "caption": "first"})
    deliver(tmp_path, {"a.jpg": JPEG, "captions.jsonl": table, "a.txt": "third\nfirst\n"})
    assert read(tmp_path)[0].captions == ("second line of the alphabet", "first", "third")


def test_a_manifests_bad_row_has_a_verdict_and_the_rest_goes_on(tmp_path: Path) -> None:
    table = lines({"path": "a.jpg"}, {"caption": "nobody"}, {"path": "../../etc/passwd"}) + "{\n"
    table += lines({"path": "b.jpg", "caption": 7}, {"uri": "https://example.org/c.jpg"}, {"path": "gone.jpg"})
    deliver(tmp_path, {"a.jpg": JPEG, "b.jpg": JPEG, "manifest.jsonl": table})
    found = read(tmp_path)
    assert len(found) == 7
    problems = "\n".join(item.problem for item in found if item.problem)
    for said in ("line 2: no 'path'", "line 3", "not below", "line 4: not valid JSON", "https", "gone.jpg is not in"):
        assert said in problems
    fine = [item for item in found if not item.problem]
    assert [item.uri.rsplit("/", 1)[-1] for item in fine] == ["a.jpg", "b.jpg"]
    assert "not a string" in fine[1].attributes["caption_problem"]
    assert len({item.uri for item in found}) == 7


def test_text_that_a_database_refuses_is_made_fit(tmp_path: Path) -> None:
    row = r'{"path": "a.jpg", "caption": "a\u0000b \ud800", "attributes": {"x": NaN, "y\u0000": ["\udfff"]}}'
    deliver(tmp_path, {"a.jpg": JPEG, "captions.jsonl": row})
    (item,) = read(tmp_path)
    assert item.captions == ("ab ?",)
    assert item.attributes == {"x": None, "y": ["?"]}


def test_a_manifest_in_parquet_beside_the_pictures(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    deliver(tmp_path, {"p/a.jpg": JPEG, "p/a.m.png": PNG, "p/other.parquet": b"not looked at"})
    pq.write_table(pa.table({"path": ["a.jpg"], "text": ["red"], "mask": ["a.m.png"]}), tmp_path / "p/manifest.parquet")
    (item,) = read(tmp_path)
    assert item.captions == ("red",)
    assert str(item.mask_uri).endswith("/p/a.m.png")


def test_a_uri_in_a_table_and_a_path_mean_the_same_picture(tmp_path: Path) -> None:
    root = tmp_path / "a b"
    rows = lines({"uri": (root / "x y.jpg").as_uri(), "caption": "one"}, {"path": "x y.jpg", "caption": "two"})
    deliver(root, {"x y.jpg": JPEG, "manifest.jsonl": rows})
    (item,) = read(root)
    assert item.captions == ("one", "two")


def test_a_link_to_a_folder_above_ends_and_a_pipe_is_left_out(tmp_path: Path) -> None:
    deliver(tmp_path, {"sub/a.jpg": JPEG})
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "sub" / "nowhere.jpg").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [found.name for found in list_objects(str(tmp_path))] == ["sub/a.jpg", "sub/nowhere.jpg"]
    assert [item.bytes for item in read(tmp_path)] == [len(JPEG), None]


def test_a_folder_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = deliver(Path(name), {"a.jpg": JPEG, "closed/b.jpg": JPEG})
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        child = os.fork()
        if child == 0:
            if os.geteuid() == 0:  # root may read everything
                os.setuid(65534)
            try:
                list(read_delivery(name))
                os._exit(1)
            except BackdropError as error:
                os._exit(0 if "/closed/ may not be read" in error.what else 2)
            finally:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        (folder / "closed").chmod(0o700)


def test_a_closed_bucket_is_one_error(s3_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    from infra import s3

    class Closed:
        def __getattr__(self, name: str) -> object:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, name)

    monkeypatch.setattr(s3, "client", Closed)
    assert "denied" in refusal(f"{s3_store.uri}/d")


def test_a_side_file_in_a_bucket_that_does_not_parse_is_named(s3_store: ObjectStore) -> None:
    for number in range(100):
        s3_store.put(f"d/{number:03}.jpg", JPEG)
        s3_store.put(f"d/{number:03}.txt", f"caption {number}".encode())
    assert [item.captions for item in read(f"{s3_store.uri}/d")] == [(f"caption {n}",) for n in range(100)]
    s3_store.put("d/077.txt", b"\xff\xfe")
    assert "077.txt" in refusal(f"{s3_store.uri}/d")
    with pytest.raises(BackdropError):
        read(f"{s3_store.uri}/d/077.jpg.tar")
