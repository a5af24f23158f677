"""Nothing personal reaches a shard: what is put into a clean file comes out, and the clean file is what is left."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infra.images import decode, encode_jpeg, encode_png, prepare
from tests.infra.picture_files import chunk, icc_segments, photo, riff, saved, segment, srgb, webp

SECRETS = ("anna.muster@example.com", "48.858370N 2.294481E", "SERIAL-4711-0815")
SECRET = " ".join(SECRETS).encode()
SPELLINGS = [secret.encode(code) for secret in SECRETS for code in ("utf-8", "utf-16-le", "utf-16-be")]


def exif_block() -> bytes:
    """Owner, GPS, serial number, a maker note and a thumbnail that is a whole JPEG with a comment of its own."""
    exif = Image.Exif()
    exif[0x010E] = SECRETS[0]
    exif[0x9286] = SECRETS[1]
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0), 0x1D: SECRETS[1]})
    exif.get_ifd(0x8769).update({0xA431: SECRETS[2], 0x927C: SECRET})
    thumbnail = encode_jpeg(photo(8, 8))
    return exif.tobytes() + thumbnail[:2] + segment(0xFE, SECRET) + thumbnail[2:]


EXIF = exif_block()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:creator>' + SECRET + b"</dc:creator></x:xmpmeta>"
IPTC = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(SECRET) + 5) + b"\x1c\x02\x50\0\x40" + SECRET
SPY_PROFILE = srgb().replace("sRGB built-in".encode("utf-16-be"), "SERIAL-4711-0".encode("utf-16-be"))

JPEGS = {
    "baseline": saved(photo(), "JPEG", quality=90),
    "progressive": saved(photo(), "JPEG", quality=90, progressive=True),
    "restarts": saved(photo(), "JPEG", quality=90, restart_marker_blocks=3),
    "grey": saved(Image.fromarray(photo()).convert("L"), "JPEG"),
    "full colour": encode_jpeg(photo()),
}
HIDDEN = {
    "EXIF": segment(0xE1, EXIF),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    "more XMP": segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + XMP),
    "IPTC": segment(0xED, IPTC),
    "comment": segment(0xFE, SECRET),
    "JFXX thumbnail": segment(0xE0, b"JFXX\0\x10" + encode_jpeg(photo(8, 8)) + SECRET),
    "MPF": segment(0xE2, b"MPF\0" + SECRET),
    "FlashPix": segment(0xE2, b"FPXR\0" + SECRET),
    "parts of a profile": segment(0xE2, b"ICC_PROFILE\0\x02\x03" + SECRET),
    "sRGB in other words": icc_segments(SPY_PROFILE),
    **{f"APP{n}": segment(0xE0 + n, SECRET) for n in range(16)},
}


def silent(data: bytes) -> bool:
    return not any(spelling in data for spelling in SPELLINGS) and b"SERIAL-4711-0" not in data.replace(b"\0", b"")


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("kind", JPEGS)
def test_what_is_put_into_a_jpeg_comes_out_and_no_other_byte_changes(kind: str, hidden: str) -> None:
    clean = JPEGS[kind]
    for place in (20, clean.index(b"\xff\xda")):  # behind JFIF, before the scan
        ready = prepare(clean[:place] + HIDDEN[hidden] + clean[place:])
        assert ready.data == clean
        assert "strip_metadata" in ready.fixes
        assert np.array_equal(ready.pixels, decode(clean))


def test_metadata_between_scans_is_cut() -> None:
    clean = JPEGS["progressive"]
    dirty = clean.replace(b"\xff\xda", HIDDEN["EXIF"] + HIDDEN["comment"] + b"\xff\xda")
    assert dirty.count(b"Exif\0\0") > 2
    assert prepare(dirty).data == clean


@pytest.mark.parametrize("kind", JPEGS)
def test_whatever_follows_the_end_is_cut(kind: str) -> None:
    clean = JPEGS[kind]
    second = clean[:2] + HIDDEN["EXIF"] + clean[2:]
    for tail, fix in ((SECRET, "trailing_bytes_cut"), (bytes(7) + second, "second_picture_cut")):
        ready = prepare(clean + tail)
        assert ready.data == clean
        assert fix in ready.fixes


def test_a_phones_second_picture_goes() -> None:
    ready = prepare(saved(photo(), "MPO", save_all=True, append_images=[Image.fromarray(photo(seed=1))], quality=90))
    assert {"second_picture_cut", "strip_metadata"} <= set(ready.fixes)
    assert ready.data.count(b"\xff\xd8\xff") == 1
    assert np.array_equal(ready.pixels, decode(JPEGS["baseline"]))


def test_a_thumbnail_in_the_first_segment_goes_and_the_density_stays() -> None:
    clean = JPEGS["baseline"]
    thumbnail = b"JFIF\0\x01\x02\x01\0\x48\0\x48" + b"\x04\x04" + SECRET.ljust(48, b"\0")
    ready = prepare(clean[:2] + segment(0xE0, thumbnail) + clean[20:])
    assert ready.data[:20] == b"\xff\xd8" + segment(0xE0, thumbnail[:12] + b"\0\0")
    assert silent(ready.data)


def test_what_rides_behind_adobes_colour_note_goes() -> None:
    clean = saved(Image.fromarray(photo()), "JPEG", keep_rgb=True)
    at = clean.index(b"\xff\xee")
    assert prepare(clean).data == clean  # the note itself says that these are no YCbCr
    longer = clean[:at] + segment(0xEE, clean[at + 4 : at + 16] + SECRET) + clean[at + 16 :]
    assert prepare(longer).data == clean


def test_an_srgb_profile_stays_and_one_that_talks_goes() -> None:
    clean = JPEGS["baseline"]
    told = clean[:20] + icc_segments(srgb()) + clean[20:]
    assert prepare(told).data is told
    assert prepare(told).fixes == ()
    assert prepare(saved(photo(), "PNG", icc_profile=srgb())).data.count(b"iCCP") == 1
    assert b"ICCP" in prepare(saved(photo(), "WEBP", icc_profile=srgb())).data
    for kind in ("JPEG", "PNG", "WEBP"):
        ready = prepare(saved(photo(), kind, icc_profile=SPY_PROFILE))
        assert b"acsp" not in ready.data
        assert b"iCCP" not in ready.data
        assert ready.fixes == ("strip_metadata",)
    appended = srgb() + SECRET
    appended = struct.pack(">I", len(appended)) + appended[4:]
    assert silent(prepare(saved(photo(), "JPEG", icc_profile=appended)).data)


PNG = encode_png(photo())
PNG_CHUNKS = {
    "text": chunk(b"tEXt", b"Author\0" + SECRET),
    "packed text": chunk(b"zTXt", b"Author\0\0" + zlib.compress(SECRET)),
    "Unicode text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "packed Unicode text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    "EXIF": chunk(b"eXIf", EXIF[6:]),
    "time": chunk(b"tIME", bytes(7)),
    "a private chunk": chunk(b"prVt", SECRET),
    "a palette for nobody": chunk(b"PLTE", SECRET.ljust(90, b"\0")),
    "colour that is none": chunk(b"sRGB", b"\0" + SECRET),
    "a profile that is none": chunk(b"iCCP", b"x\0\0" + zlib.compress(SECRET)),
}


@pytest.mark.parametrize("hidden", PNG_CHUNKS)
def test_what_is_put_into_a_png_comes_out_and_no_other_byte_changes(hidden: str) -> None:
    end = len(PNG) - 12
    for place in (33,) if hidden.startswith(("a ", "colour")) else (33, end):
        ready = prepare(PNG[:place] + PNG_CHUNKS[hidden] + PNG[place:])
        assert ready.data == PNG
        assert ready.fixes == ("strip_metadata",)
        assert np.array_equal(ready.pixels, photo())


def test_bytes_behind_a_png_and_inside_its_last_chunk_go() -> None:
    assert prepare(PNG + SECRET).data == PNG
    assert prepare(PNG + SECRET).fixes == ("trailing_bytes_cut",)
    assert silent(prepare(PNG[:-12] + chunk(b"IDAT", SECRET) + PNG[-12:]).data)  # behind the end of the stream
    text = PngInfo()
    text.add_text("Comment", SECRET.decode(), zip=True)
    assert b"zTXt" not in prepare(saved(photo(), "PNG", pnginfo=text)).data


def test_an_unusual_name_of_an_srgb_profile_goes_and_the_colours_stay_named() -> None:
    ready = prepare(PNG[:33] + chunk(b"iCCP", SECRET[:70] + b"\0\0" + zlib.compress(srgb())) + PNG[33:])
    assert silent(ready.data)
    assert chunk(b"sRGB", b"\0") in ready.data


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_what_is_put_into_a_webp_comes_out_and_no_other_byte_changes(options: dict[str, object]) -> None:
    clean = saved(photo(), "WEBP", **options)
    told = saved(photo(), "WEBP", exif=EXIF, xmp=XMP, **options)
    assert not silent(told)
    head = b"\x0c\0\0\0" + struct.pack("<I", 63)[:3] + struct.pack("<I", 47)[:3]
    made = webp(riff(b"VP8X", head), riff(b"spy ", SECRET), clean[12:], riff(b"EXIF", EXIF), riff(b"XMP ", XMP))
    for data in (told, made):
        assert prepare(data).data == clean
        assert prepare(data).fixes == ("strip_metadata",)
    assert prepare(clean + SECRET).data == clean
    assert prepare(clean + SECRET).fixes == ("trailing_bytes_cut",)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "BMP"])
def test_formats_that_shards_do_not_hold_leave_everything_behind(kind: str) -> None:
    options = {"TIFF": {"description": SECRET.decode()}, "GIF": {"comment": SECRET}, "BMP": {}}[kind]
    data = saved(photo(), kind, **options) + SECRET
    ready = prepare(data)
    assert ready.format == "jpeg"
    assert "format_to_jpeg" in ready.fixes
    assert silent(ready.data)
    assert prepare(ready.data).data is ready.data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_rotated_picture_leaves_its_exif_behind(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, SECRET.decode()
    ready = prepare(saved(photo(), kind, exif=exif))
    assert "exif_rotate" in ready.fixes
    assert (ready.width, ready.height) == (48, 64)
    assert silent(ready.data)
    assert b"Exif" not in ready.data
