"""What is prepared for a shard: pixels that are what the bytes decode to, as few new bytes as can be, and limits."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from infra.images import BadImage, cleaned, decode, encode_jpeg, encode_png, prepare
from tests.infra.picture_files import chunk, icc_segments, linear_grey, photo, saved, segment, srgb, swapped

GREY = Image.fromarray(photo()).convert("L")
RGBA = Image.fromarray(np.dstack([photo(), np.full((48, 64), 90, np.uint8)]))
FRAMES = {"save_all": True, "append_images": [Image.fromarray(photo(seed=1))]}
DEEP = Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))
PALETTE = Image.fromarray(photo()).quantize(32)

# name: (bytes, fixes, format packed, whether the bytes pass)
FILES = {
    "jpeg": (saved(photo(), "JPEG"), (), "jpeg", True),
    "progressive": (saved(photo(), "JPEG", progressive=True), (), "jpeg", True),
    "grey jpeg": (saved(GREY, "JPEG"), ("gray_to_rgb",), "jpeg", True),
    "cmyk": (saved(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95), ("cmyk_to_rgb",), "jpeg", False),
    "png": (saved(photo(), "PNG"), (), "png", True),
    "grey png": (saved(GREY, "PNG"), ("gray_to_rgb",), "png", True),
    "opaque png": (saved(Image.fromarray(photo()).convert("RGBA"), "PNG"), ("alpha_ignored",), "png", True),
    "cut-out": (saved(RGBA, "PNG"), ("alpha_flatten",), "jpeg", False),
    "palette": (saved(PALETTE, "PNG"), ("palette_to_rgb",), "jpeg", False),
    "deep": (saved(DEEP, "PNG"), ("depth16_to_8", "gray_to_rgb"), "jpeg", False),
    "webp": (saved(photo(), "WEBP"), (), "webp", True),
    "webp cut-out": (saved(RGBA, "WEBP"), ("alpha_flatten",), "jpeg", False),
    "lossless webp": (saved(photo(), "WEBP", lossless=True), (), "webp", True),
    "moving webp": (saved(photo(), "WEBP", **FRAMES), ("first_frame", "format_to_jpeg"), "jpeg", False),
    "moving png": (saved(photo(), "PNG", **FRAMES), ("first_frame",), "png", False),
    "gif": (saved(PALETTE, "GIF"), ("format_to_jpeg", "palette_to_rgb"), "jpeg", False),
    "tiff": (saved(photo(), "TIFF", compression="tiff_lzw"), ("format_to_jpeg",), "jpeg", False),
    "ink": (
        saved(Image.fromarray(photo()).convert("CMYK"), "TIFF"),
        ("cmyk_to_rgb", "format_to_jpeg"),
        "jpeg",
        False,
    ),
    "bmp": (saved(photo(), "BMP"), ("format_to_jpeg",), "jpeg", False),
}


def refused(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        prepare(data)
    assert caught.value.reason in BadImage.REASONS
    return caught.value.reason


@pytest.mark.parametrize("name", FILES)
def test_cleaning_without_decoding_gives_the_same_bytes(name: str) -> None:
    data, _, _, passes = FILES[name]
    prepared = prepare(data)
    found = cleaned(data)
    assert found is None or found == (prepared.data, prepared.width, prepared.height)
    # Every JPEG that passes is spared its decoding.
    assert (found is not None) == (data[:3] == b"\xff\xd8\xff" and passes)
    assert cleaned(data, max_side=16) is None


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_what_the_packed_bytes_decode_to(name: str) -> None:
    data, fixes, kind, passes = FILES[name]
    ready = prepare(data)
    assert (ready.fixes, ready.format) == (fixes, kind)
    assert (ready.data == data) == passes
    assert (ready.width, ready.height) == (64, 48)
    assert np.array_equal(decode(ready.data), ready.pixels)
    # Encoded anew at most once, and then close to what the original shows; a palette's steps are hard on JPEG.
    assert np.abs(ready.pixels.astype(int) - decode(data)).mean() < (4 if "palette_to_rgb" in fixes else 2)
    assert prepare(ready.data).data == ready.data


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_format_comes_out_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    marked = Image.fromarray(photo())
    marked.getexif()[0x0112] = orientation
    ready = prepare(saved(photo(), kind, exif=exif, **lossless))
    upright = np.asarray(ImageOps.exif_transpose(marked))
    assert ready.pixels.shape == upright.shape
    assert np.abs(ready.pixels.astype(int) - upright).mean() < 3
    assert "exif_rotate" in ready.fixes


def test_a_longer_side_is_scaled_and_nothing_is_enlarged() -> None:
    ready = prepare(saved(photo(90, 120), "JPEG"), max_side=60)
    assert (ready.width, ready.height, ready.fixes) == (60, 45, ("resize",))
    assert prepare(saved(photo(), "JPEG"), max_side=64).fixes == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_foreign_colours_are_converted(kind: str) -> None:
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    ready = prepare(saved(photo(), kind, icc_profile=swapped(), **options))
    assert "icc_to_srgb" in ready.fixes
    # The profile calls red what sRGB calls green.
    assert np.abs(ready.pixels.astype(int) - photo()[..., [1, 0, 2]]).mean() < 3
    assert b"acsp" not in ready.data
    assert "icc_to_srgb" not in prepare(saved(photo(), kind, icc_profile=srgb(), **options)).fixes


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_profiles_are_applied_to_grey(kind: str) -> None:
    flat = Image.new("L", (32, 32), 55)
    ready = prepare(saved(flat, kind, icc_profile=linear_grey()))
    assert ready.fixes == ("gray_to_rgb", "icc_to_srgb")
    assert np.abs(ready.pixels.astype(int) - 128).max() <= 2  # sRGB's curve puts 21.6 % of the light at 128


def test_a_profile_for_other_pictures_is_only_cut() -> None:
    for profile in (linear_grey(), b"no profile", srgb()[:200]):
        ready = prepare(saved(photo(), "JPEG", icc_profile=profile))
        assert ready.fixes == ("strip_metadata",)
        assert ready.data == saved(photo(), "JPEG")


def test_pictures_with_nothing_to_see_are_blank() -> None:
    stencil = GREY.convert("1")
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        assert refused(saved(stencil, kind)) == "blank", kind
    assert refused(saved(Image.fromarray(photo()).quantize(2), "PNG")) == "blank"
    for kind in ("PNG", "WEBP", "TIFF"):
        clear = Image.fromarray(np.dstack([photo(), np.zeros((48, 64), np.uint8)]))
        assert refused(saved(clear, kind, **({"lossless": True} if kind == "WEBP" else {}))) == "blank", kind
    assert decode(saved(stencil, "PNG")).shape == (48, 64, 3)  # masks and the studio may look at it


def test_text_bombs_are_refused_before_they_are_inflated() -> None:
    png = encode_png(photo())
    note = zlib.compress(bytes(80 << 20), 9)
    profile = zlib.compress(bytes(20 << 20), 9)
    bombs = {
        "zTXt": chunk(b"zTXt", b"note\0\0" + note),
        "iTXt": chunk(b"iTXt", b"note\0\1\0\0\0" + note),
        "iCCP": chunk(b"iCCP", b"ICC Profile\0\0" + profile),
        "many": chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(1_000_000))) * 5,
    }
    for name, bomb in bombs.items():
        tracemalloc.start()
        assert refused(png[:33] + bomb + png[33:]) == "metadata limit", name
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 24 << 20, name
    assert refused(png[:33] + chunk(b"tEXt", b"") * (1 << 17) + png[33:]) == "metadata limit"


def test_a_png_stream_that_goes_on_is_not_followed() -> None:
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(8 * 25) + bytes(64 << 20), 9)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert prepare(data).fixes == ("hidden_bytes_cut",)
    short = zlib.compress(bytes(8 * 25 - 1))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", short) + chunk(b"IEND", b"")
    assert refused(data) == "truncated"


def test_jpeg_bombs_are_refused() -> None:
    whole = saved(photo(), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    assert refused(whole[:-2] + last * 120 + b"\xff\xd9") == "scan limit"
    assert refused(whole[:20] + segment(0xFE, b"x") * 5000 + whole[20:]) == "metadata limit"
    frame = whole.index(b"\xff\xc2")
    size = 2 + struct.unpack(">H", whole[frame + 2 : frame + 4])[0]
    huge = bytearray(whole[frame : frame + size])
    huge[5:9] = struct.pack(">HH", 65500, 65500)
    # The limit must not be told the second frame's size while the decoder believes the first one's.
    assert refused(whole[:frame] + bytes(huge) + whole[frame:]) == "corrupt"


def test_damage_and_other_formats_are_named() -> None:
    jpeg = encode_jpeg(photo())
    scan = jpeg.index(b"\xff\xda") + 40
    assert refused(jpeg[:scan] + b"\xff\xe1\xff\xf0" + jpeg[scan + 4 :]) == "corrupt"
    assert refused(jpeg[:20] + b"stray" + jpeg[20:]) == "corrupt"
    assert refused(b"\0\0\0\x18ftypheic" + bytes(40)) == "unsupported"
    assert refused(b"8BPS" + bytes(40)) == "unsupported"
    twelve = bytearray(jpeg)
    twelve[jpeg.index(b"\xff\xc0") + 4] = 12
    assert refused(bytes(twelve)) == "unsupported"
    assert refused(saved(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF")) == "unsupported"
    with pytest.raises(BadImage) as caught:
        prepare(jpeg, max_pixels=100)
    again = pickle.loads(pickle.dumps(caught.value))  # workers send it home
    assert (again.reason, str(again)) == ("too many pixels", str(caught.value))


SEEDS = {name: entry[0] for name, entry in FILES.items()}
SEEDS["profile"] = saved(photo(), "JPEG")[:20] + icc_segments(swapped()) + saved(photo(), "JPEG")[20:]
SEEDS["png profile"] = saved(photo(), "PNG", icc_profile=swapped())


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_raise_bad_image_or_come_out_whole(name: str) -> None:
    rng = np.random.default_rng(sorted(SEEDS).index(name))
    whole = SEEDS[name]
    for round_ in range(60):
        damaged = bytearray(whole)
        place = int(rng.integers(len(whole) if round_ % 2 else min(len(whole), 600)))
        match round_ % 4:
            case 0 | 1:
                damaged[place] ^= 1 << int(rng.integers(8))
            case 2:
                del damaged[place : place + int(rng.integers(1, len(whole)))]
            case 3:
                damaged[place:place] = rng.bytes(int(rng.integers(1, 40)))
        try:
            ready = prepare(bytes(damaged))
        except BadImage:
            continue
        assert np.array_equal(decode(ready.data), ready.pixels)
        assert prepare(ready.data).data == ready.data
