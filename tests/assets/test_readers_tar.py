"""WebDataset tars, on disk and in a bucket: one pass for the index, members by ranged reads, damage with a verdict."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from assets.curation.readers.tar_index import Member, TarDamage, members
from infra.errors import BackdropError
from infra.object_store import ObjectStore, read_uri
from tests.assets.deliveries import JPEG, PNG, deliver, read, refusal, tar_of

SAMPLE = tar_of(
    ("cats/002.jpg", JPEG + b"2"),
    ("cats/001.jpg", JPEG + b"1"),
    ("cats/001.json", json.dumps({"caption": "from json", "url": "https://example.org/1", "license": "CC0"})),
    ("cats/001.txt", "from text"),
    ("cats/002.cls", "7\n"),
    ("cats/002.mask.png", PNG),
    ("cats/._003.jpg", JPEG),
    ("__index__.pyd", "something else"),
    ("noextension", PNG),
    ("cats/001.txt", "from a second text"),
)


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, request.getfixturevalue("s3_store") if request.param == "bucket" else None)


class Place:
    """Where a tar is put: a folder or a bucket."""

    def __init__(self, folder: Path, store: ObjectStore | None) -> None:
        self.folder, self.store = folder, store
        self.uri = f"{store.uri}/d" if store else str(folder)

    def put(self, name: str, data: bytes) -> str:
        if self.store is None:
            deliver(self.folder, {name: data})
        else:
            self.store.put(f"d/{name}", data)
        return f"{self.uri}/{name}"


def test_a_samples_members_come_together_wherever_they_stand(place: Place) -> None:
    uri = place.put("a b#1.tar", SAMPLE)
    one, two, three = read(uri)
    assert one.captions == ("from text", "from a second text", "from json")
    assert (one.source, one.licence) == ("https://example.org/1", "CC0")
    assert two.attributes == {"cls": "7"}
    assert two.source == f"{uri}/cats/002.jpg"
    assert [read_uri(item.uri) for item in (one, two, three)] == [JPEG + b"1", JPEG + b"2", PNG]
    assert read_uri(str(two.mask_uri)) == PNG
    assert [item.bytes for item in (one, two, three)] == [len(JPEG) + 1, len(JPEG) + 1, len(PNG)]
    assert one.etag == two.etag != ""
    assert not any(item.problem for item in (one, two, three))


def test_a_folder_of_tars_and_pictures(place: Place) -> None:
    place.put("x.jpg", JPEG)
    place.put("b.tar", tar_of(("1.jpg", JPEG)))
    place.put("sub/a.TAR", tar_of(("1.jpg", JPEG), ("1.txt", "in the folder below")))
    place.put("c.tar.gz", b"\x1f\x8b")
    found = read(place.uri)
    assert [item.uri.partition("#")[0].rsplit("/", 1)[-1] for item in found] == ["b.tar", "c.tar.gz", "a.TAR", "x.jpg"]
    assert [bool(item.problem) for item in found] == [False, True, False, False]
    assert found[2].captions == ("in the folder below",)
    assert read_uri(found[2].uri) == JPEG


@pytest.mark.parametrize(("cut", "count"), [(700, 1), (1536, 1), (2048, 2), (2348, 2), (2568, 2), (3072, 3)])
def test_what_is_whole_in_a_tar_cut_short_is_delivered(place: Place, cut: int, count: int) -> None:
    # Each member takes 1,024 bytes: a header block and a data block that is mostly padding.
    uri = place.put("a.tar", tar_of(("1.jpg", JPEG), ("2.jpg", JPEG), ("3.jpg", JPEG))[:cut])
    place.put("b.jpg", JPEG)
    *whole, problem, other = read(place.uri)
    assert [read_uri(item.uri) for item in whole] == [JPEG] * count
    assert "cut short" in problem.problem
    assert uri.rsplit("/", 1)[-1] in problem.problem
    assert not other.problem
    with pytest.raises(BackdropError):
        read_uri(problem.uri)


def test_a_tar_with_nothing_whole_is_one_error(tmp_path: Path) -> None:
    for name, data, said in [
        ("empty.tar", b"", "empty"),
        ("cut.tar", tar_of(("1.jpg", JPEG))[:520], "1.jpg"),
        ("gz.tar", b"\x1f\x8b" + bytes(600), "compressed"),
        ("text.tar", b"words " * 200, "no tar header"),
    ]:
        deliver(tmp_path, {name: data})
        what = refusal(tmp_path / name)
        assert name in what
        assert said in what
    assert "compressed" in refusal(deliver(tmp_path, {"x/a.tar.gz": b"\x1f\x8b"}) / "x" / "a.tar.gz")


def test_a_bad_side_file_in_a_tar_costs_the_captions_only(tmp_path: Path) -> None:
    tar = tar_of(("1.jpg", JPEG), ("1.txt", b"\xff\xfe"), ("2.jpg", JPEG), ("2.json", "{"), ("3.jpg", JPEG))
    deliver(tmp_path, {"a.tar": tar})
    one, two, three = read(tmp_path / "a.tar")
    assert "1.txt is not UTF-8" in one.attributes["caption_problem"]
    assert "2.json: not valid JSON" in two.attributes["caption_problem"]
    assert three.attributes == {}
    assert not any(item.problem for item in (one, two, three))


def test_a_tar_that_changed_since_is_not_read_as_a_picture(place: Place) -> None:
    uri = place.put("a.tar", tar_of(("1.jpg", JPEG), ("2.jpg", JPEG)))
    (_, second) = read(uri)
    place.put("a.tar", tar_of(("1.jpg", JPEG))[:1024])
    with pytest.raises(BackdropError, match="changed or cut short"):
        read_uri(second.uri)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_gives_what_pythons_tarfile_gives(kind: int) -> None:
    names = ["a.jpg", "./dot/b.jpg", "l" * 90 + "/" + "n" * 60 + ".jpg", "é/ü.jpg", "empty.txt"]
    if kind != tarfile.USTAR_FORMAT:
        names.append("/".join(["deep" * 20] * 5) + ".jpg")
    data = tar_of(*((name, b"x" * (number * 511)) for number, name in enumerate(names)), kind=kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [Member(info.name.removeprefix("./"), info.offset_data, info.size) for info in tar]
    assert list(members(io.BytesIO(data))) == expected


def test_folders_and_links_have_no_bytes_and_joined_archives_are_read_to_the_end() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("sub", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    joined = out.getvalue() + tar_of(("a.jpg", JPEG)) + tar_of(("b.jpg", JPEG))
    assert [member.name for member in members(io.BytesIO(joined))] == ["a.jpg", "b.jpg"]


def test_a_damaged_header_in_the_middle_is_not_the_end() -> None:
    data = bytearray(tar_of(("a.jpg", JPEG), ("b.jpg", JPEG), ("c.jpg", JPEG)))
    data[1024 + 150] ^= 0xFF
    found = members(io.BytesIO(bytes(data)))
    assert next(found).name == "a.jpg"
    with pytest.raises(TarDamage) as caught:
        next(found)
    assert caught.value.at == 1024


@pytest.mark.parametrize(
    "records", [b"99 path=a\n", b"x path=a\n", b"-5 path=a\n", b"2 \n0 a=b\n", b"15 size=twelve\n", b"4 a=", b"0 "]
)
def test_damaged_pax_records_end_in_a_verdict(records: bytes) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    data = header.tobuf() + records.ljust(512, b"\0") + tar_of(("a.jpg", JPEG))
    with pytest.raises(TarDamage):
        list(members(io.BytesIO(data)))


def test_any_single_damaged_byte_ends_well() -> None:
    data = tar_of(("a.jpg", JPEG), ("é" * 80 + ".jpg", JPEG), ("b.txt", "x"))
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 0x5A
        try:
            for member in members(io.BytesIO(bytes(changed))):
                assert member.offset + member.size <= len(data)
        except TarDamage:
            pass
