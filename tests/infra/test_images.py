"""Safe decoding: every format upright and in sRGB, every kind of damage by its name, nothing else ever raised."""

from __future__ import annotations

import csv
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from infra import raster
from infra.images import (
    BadImage,
    decode,
    decode_mask,
    encode_jpeg,
    encode_png,
    fit,
    prepare,
    probe,
    shrink,
)


def photo(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Something smooth with detail in every corner, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert caught.value.reason in BadImage.REASONS
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    assert np.array_equal(decode(saved(Image.fromarray(photo()), kind)), photo())


@pytest.mark.parametrize(("kind", "limit"), [("JPEG", 6), ("WEBP", 12), ("GIF", 12)])
def test_lossy_formats_stay_close(kind: str, limit: float) -> None:
    found = decode(saved(Image.fromarray(photo()), kind, quality=95))
    assert np.abs(found.astype(int) - photo()).mean() < limit


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_probe_reads_the_size_from_the_header(kind: str) -> None:
    assert probe(saved(Image.fromarray(photo(40, 72)), kind)) == (kind.lower(), 72, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(photo()), "JPEG", exif=exif, quality=95, subsampling=0)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decode(data)
    assert found.shape == (upright.height, upright.width, 3)
    assert np.abs(found.astype(int) - np.asarray(upright)).max() <= 3


def test_a_senseless_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert decode(saved(Image.fromarray(photo()), "JPEG", exif=exif)).shape == (48, 64, 3)


def test_alpha_lies_on_white() -> None:
    rgba = np.dstack([photo(), np.zeros((48, 64), np.uint8)])
    rgba[:10, :, 3] = 255
    found = decode(saved(Image.fromarray(rgba), "PNG"))
    assert np.array_equal(found[:10], photo()[:10])
    assert (found[10:] == 255).all()


def test_palette_transparency_lies_on_white() -> None:
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.paste(1, (0, 0, 10, 20))
    found = decode(saved(picture, "PNG", transparency=0))
    assert (found[:, 10:] == 255).all()
    assert (found[:, :10] == (200, 0, 0)).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    found = decode(saved(Image.fromarray(deep), "PNG"))
    assert found[0, 0, 0] == 0
    assert found[-1, -1, 0] == 255
    assert 120 <= found[24, 0, 0] <= 136


def test_cmyk_becomes_rgb() -> None:
    data = saved(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(data).astype(int) - photo()).mean() < 8


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data)[12, 12] == (255, 0, 0)).all()


def test_damage_has_a_name() -> None:
    jpeg = encode_jpeg(photo(), 90)
    png = encode_png(photo())
    assert reason(b"") == "empty"
    assert reason(b"<!DOCTYPE html><p>404") == "not an image"
    assert reason(b"\xff\xd8\xff\xe0 and then noise") == "corrupt"
    assert reason(jpeg[: len(jpeg) // 2]) == "truncated"
    assert reason(jpeg[:-2]) == "truncated"
    assert reason(png[: len(png) * 2 // 3]) == "truncated"
    assert reason(png[:20]) == "truncated"
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    assert reason(bytes(flipped)) == "corrupt"


def test_flipped_bits_in_a_jpeg_scan_are_seen() -> None:
    rng = np.random.default_rng(3)
    jpeg = encode_jpeg(photo(240, 320), 90)
    start = jpeg.index(b"\xff\xda") + 14
    seen = 0
    for _ in range(20):
        damaged = bytearray(jpeg)
        for place in rng.integers(start, len(jpeg) - 2, 60):
            damaged[place] = int(rng.integers(256))
        try:
            decode(bytes(damaged))
        except BadImage:
            seen += 1
    assert seen == 20


def test_bombs_are_refused_by_their_header() -> None:
    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert reason(b"\x89PNG\r\n\x1a\n" + chunk) == "too many pixels"
    assert reason(b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0;") == "too many pixels"
    lying = bytearray(encode_jpeg(photo(), 80))
    frame = lying.index(b"\xff\xc0")
    lying[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    assert reason(bytes(lying)) == "too many pixels"


def test_a_huge_text_chunk_is_refused() -> None:
    png = encode_png(photo())
    body = b"note\0\0" + zlib.compress(b"\0" * (80 << 20), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    assert reason(png[:33] + chunk + png[33:]) == "metadata limit"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_no_bytes_raise_anything_but_bad_image(kind: str) -> None:
    rng = np.random.default_rng(7)
    whole = saved(Image.fromarray(photo()), kind)
    for _ in range(150):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole) + 1))])
        for place in rng.integers(0, len(damaged), int(rng.integers(0, 12))):
            damaged[place] = int(rng.integers(256))
        try:
            found = decode(bytes(damaged))
        except BadImage:
            continue
        assert found.dtype == np.uint8
        assert found.ndim == 3


def test_fit_crops_the_centre() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 200
    assert fit(image, 16).shape == (16, 16, 3)
    assert (fit(image, 16) == 200).all()
    assert fit(image[..., 0], 64).shape == (64, 64)


def test_shrink_never_enlarges() -> None:
    assert shrink(photo(40, 80), 20).shape == (10, 20, 3)
    assert shrink(photo(40, 80), 100) is not None
    assert shrink(photo(40, 80), 100).shape == (40, 80, 3)


def test_masks_come_from_grey_values_or_from_a_cut_out() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10] = 255
    assert np.array_equal(decode_mask(encode_png(mask)), mask > 0)
    cut_out = np.dstack([photo(20, 30), mask])
    assert np.array_equal(decode_mask(saved(Image.fromarray(cut_out), "PNG")), mask > 0)
    with pytest.raises(BadImage):
        decode_mask(b"no")


def test_masks_of_sixteen_bits_and_cut_outs_with_a_palette() -> None:
    levels = np.array([[0, 1000, 32000], [33000, 65000, 65535]], np.uint16)
    assert np.array_equal(decode_mask(saved(Image.fromarray(levels), "PNG")), levels > 32768)
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([255, 255, 255, 255, 255, 255])
    assert np.array_equal(decode_mask(saved(palette, "PNG", transparency=1)), [[True, False], [False, True]])


def test_threads_decode_at_once_and_leave_other_warnings_as_they_are() -> None:
    def damaged(number: int) -> str | None:
        try:
            decode(files[number % 2])
        except BadImage as error:
            return error.reason
        return None

    files = [encode_png(photo()), encode_png(photo())[:-40]]
    alone = [damaged(0), damaged(1)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(damaged, range(400))) == alone * 200
    warnings.warn("of somebody else", UserWarning, stacklevel=1)  # raises where a thread's filters stay


def test_what_pillow_warns_of_is_an_error() -> None:
    for kind in (UserWarning, RuntimeWarning, Image.DecompressionBombWarning):
        with pytest.raises(BadImage), raster.strictly("png"):
            warnings.warn_explicit("something is wrong with it", kind, "Image.py", 1, module="PIL.Image")


def samples() -> Path:
    folder = os.environ.get("BACKDROP_SAMPLES")
    if not folder:
        pytest.skip("BACKDROP_SAMPLES is not set: no real files to decode")
    return Path(folder)


def test_dirty_files_are_judged_as_their_labels_say() -> None:
    dirty = samples() / "dirty"
    wrong = []
    for row in csv.DictReader((dirty / "labels.csv").open()):
        try:
            ready = prepare((dirty / row["path"]).read_bytes())
            fine = row["expected_action"] != "quarantine"
            fine = fine and (str(ready.width), str(ready.height)) == (row["width"], row["height"])
            if row["expected_action"] == "fix" and row["category"] in ("mode", "exif", "pii"):
                fine = fine and bool(ready.fixes)
        except BadImage:
            fine = "quarantine" in row["expected_action"]
        if not fine:
            wrong.append(row["path"])
    assert wrong == []
