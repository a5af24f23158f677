"""Safe pictures: bytes of unknown origin in; an upright sRGB array, and bytes that may be packed, out.

The order is the defence: magic bytes, then the size that the header claims and the limits on everything that could
inflate, then a strict decoder. What is no picture (EXIF, XMP, IPTC, comments, thumbnails, second pictures, whatever
follows the end) is cut out of the file before the decoder sees it, so what was judged is what is packed. The
compressed picture itself is copied bit for bit, unless something asks for new pixels: a rotation, alpha, a palette,
16 bits, ink, foreign colours, a size limit, or a format that shards do not hold.

JPEG goes to simplejpeg in strict mode, the only decoder at hand that rejects flipped bits in the scan; everything else
to Pillow with its warnings as errors. OpenCV never judges: it returns full pictures for files cut in half.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from infra import colour, jpeg, png, raster, webp
from infra.bad_image import BadImage
from infra.colour import Verdict
from infra.pixels import cover, encode_jpeg, encode_png, fit, rotate, shrink

__all__ = [
    "MAX_PIXELS",
    "BadImage",
    "Prepared",
    "cleaned",
    "cover",
    "decode",
    "decode_mask",
    "encode_jpeg",
    "encode_png",
    "fit",
    "prepare",
    "probe",
    "shrink",
    "sniff",
]

MAX_PIXELS = 64_000_000
_QUALITY = 95
_MAX_JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION

# The cuts, which leave the picture's bytes as they are, and what every reader of the bytes does for itself.
_CUTS = {"strip_metadata", "second_picture_cut", "trailing_bytes_cut", "first_frame"}
_BYTES_PASS = _CUTS | {"gray_to_rgb", "alpha_ignored"}
_OTHERS = {
    b"8BPS": "a Photoshop document",
    b"II+\0": "a BigTIFF",
    b"MM\0+": "a BigTIFF",
    b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
}


@dataclass(frozen=True)
class Prepared:
    """A picture that may go into a shard."""

    data: bytes  # no EXIF, XMP, IPTC, comments or trailing bytes
    format: str  # of `data`: jpeg, png or webp
    width: int  # of `data`, upright
    height: int
    pixels: np.ndarray  # uint8 (height, width, 3) sRGB: what `decode(data)` gives
    fixes: tuple[str, ...]  # what was changed, sorted: names such as strip_metadata or exif_rotate; () = untouched


@dataclass
class _Reading:
    """A decoded picture, and its bytes without what is cut: good to pack unless `fixes` says that pixels changed."""

    pixels: np.ndarray
    format: str
    clean: bytes
    fixes: set[str]
    blank: str = ""  # why there is nothing to see


def prepare(data: bytes, *, max_pixels: int = MAX_PIXELS, max_side: int | None = None) -> Prepared:
    """Bytes of unknown origin → what may be packed, and its pixels.

    Bytes pass untouched where nothing has to change; metadata is cut without encoding again. New pixels are JPEG,
    quality 95, colour at full resolution, and `pixels` are read back from it. A side longer than `max_side` is scaled
    down to it. Raises BadImage with `reason` in BadImage.REASONS; no other exception for any bytes.
    """
    reading = _read(data, max_pixels)
    if reading.blank:
        raise BadImage("blank", reading.blank)
    pixels, kind, packed, fixes = reading.pixels, reading.format, reading.clean, reading.fixes
    if max_side is not None and max(pixels.shape[:2]) > max_side:
        pixels = shrink(pixels, max_side)
        fixes.add("resize")
    if not fixes <= _BYTES_PASS:
        if max(pixels.shape[:2]) > _MAX_JPEG_SIDE:
            raise BadImage(
                "too many pixels", f"a side of {max(pixels.shape[:2])} pixels, a JPEG holds {_MAX_JPEG_SIDE}"
            )
        packed, kind = encode_jpeg(pixels, _QUALITY), "jpeg"
        pixels = jpeg.decode(packed, 3)
    height, width = pixels.shape[:2]
    return Prepared(packed, kind, width, height, pixels, tuple(sorted(fixes)))


def cleaned(data: bytes, *, max_side: int | None = None) -> tuple[bytes, int, int] | None:
    """(bytes, width, height) of what `prepare` makes of a JPEG whose picture passes as it is, without decoding it.

    None where new pixels are needed, and for other formats. Only for bytes that `prepare` has accepted: nothing is
    judged here.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    layout = jpeg.walk(data)
    if layout.components == 4 or layout.orientation != 1:
        return None
    if max_side is not None and max(layout.width, layout.height) > max_side:
        return None
    verdict = _verdict(layout.profile, "L" if layout.components == 1 else "RGB", layout.fixes)
    if verdict is Verdict.CONVERT:
        return None
    return layout.picture(data, verdict is Verdict.KEEP), layout.width, layout.height


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Bytes → uint8 (H, W, 3), sRGB, upright by EXIF, alpha composited on white, first frame of an animation.

    Raises BadImage with `reason` in BadImage.REASONS; no other exception for any bytes.
    """
    return _read(data, max_pixels).pixels


def decode_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Mask bytes (PNG or another lossless format) → bool (H, W), True = product. Raises BadImage.

    Product is what is at least half opaque in a cut-out, and at least half white in any other picture.
    """
    kind, width, height = probe(data)
    raster.check_pixels(width, height, max_pixels)
    if kind == "png":
        data = png.walk(data).picture(data, keep_profile=False)
    picture = raster.load(data, kind, max_pixels, set())
    with raster.strictly(kind):
        alpha = raster.alpha(picture)
        if alpha is not None and (alpha < 255).any():
            return alpha >= 128  # a cut-out
        if picture.mode.startswith("I"):
            picture = raster.eight_bits(picture)
        return np.asarray(picture.convert("L")) >= 128


def sniff(data: bytes) -> str:
    """The format by magic bytes: jpeg, png, webp, gif, tiff or bmp. Raises BadImage for anything else."""
    if not data:
        raise BadImage("empty", "the file has no bytes")
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == png.SIGNATURE:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    if data[:2] == b"BM":
        return "bmp"
    if data[4:8] == b"ftyp":
        raise BadImage("unsupported", f"a HEIF, AVIF or film file of brand {data[8:12]!r}")
    for magic, name in _OTHERS.items():
        if data.startswith(magic):
            raise BadImage("unsupported", name)
    raise BadImage("not an image", f"starts with {data[:12]!r}")


def probe(data: bytes) -> tuple[str, int, int]:
    """(format, width, height) as the header claims them, before any rotation; nothing decoded. Raises BadImage."""
    kind = sniff(data)
    if kind == "jpeg":
        layout = jpeg.walk(data)
        return kind, layout.width, layout.height
    if kind == "png":
        header = png.header(data)
        return kind, header.width, header.height
    if kind == "webp":
        canvas = webp.walk(data)
        return kind, canvas.width, canvas.height
    if kind == "gif":
        if len(data) < 10:
            raise BadImage("truncated", "the GIF header is incomplete")
        return (kind, *struct.unpack("<HH", data[6:10]))
    with raster.open_picture(data, kind) as picture:
        return kind, picture.width, picture.height


def _read(data: bytes, max_pixels: int) -> _Reading:
    kind = sniff(data)
    try:
        if kind == "jpeg":
            return _read_jpeg(data, max_pixels)
        return _read_other(data, kind, max_pixels)
    except MemoryError:
        raise BadImage("too many pixels", f"the memory does not hold this {kind}") from None


def _read_jpeg(data: bytes, max_pixels: int) -> _Reading:
    layout = jpeg.walk(data)
    raster.check_pixels(layout.width, layout.height, max_pixels)
    fixes = layout.fixes
    mode = {1: "L", 4: "CMYK"}.get(layout.components, "RGB")
    verdict = _verdict(layout.profile, mode, fixes)
    clean = layout.picture(data, verdict is Verdict.KEEP)
    pixels = jpeg.decode(clean, layout.components)
    if mode == "L":
        fixes.add("gray_to_rgb")
    if mode == "CMYK" or verdict is Verdict.CONVERT:
        plane = pixels[..., 0] if mode == "L" else pixels
        picture = Image.frombytes(mode, (layout.width, layout.height), plane.tobytes())
        pixels = raster.to_srgb(picture, layout.profile if verdict is Verdict.CONVERT else b"", fixes)
    return _Reading(_turn(pixels, layout.orientation, fixes), "jpeg", clean, fixes)


def _read_other(data: bytes, kind: str, max_pixels: int) -> _Reading:
    _, width, height = probe(data)
    raster.check_pixels(width, height, max_pixels)
    if kind in ("png", "webp"):
        layout = png.walk(data) if kind == "png" else webp.walk(data)
        fixes, profile, orientation = layout.fixes, layout.profile, layout.orientation
        grey = isinstance(layout, png.Layout) and layout.colour in (0, 4)
        verdict = _verdict(profile, "L" if grey else "RGB", fixes)
        clean = layout.picture(data, verdict is Verdict.KEEP)
        if isinstance(layout, png.Layout):
            fixes.update(("depth16_to_8",) if layout.depth == 16 else ())
            fixes.update(("hidden_bytes_cut",) if not layout.whole else ())
        picture = raster.load(clean, kind, max_pixels, fixes)
    else:
        fixes, clean, orientation = {"format_to_jpeg"}, b"", 1
        picture = raster.load(data, kind, max_pixels, fixes)
        profile = picture.info.get("icc_profile") or b""
        verdict = _verdict(profile, raster.profile_mode(picture), fixes)
    blank = raster.blank(picture)
    pixels = raster.to_srgb(picture, profile if verdict is Verdict.CONVERT else b"", fixes)
    return _Reading(_turn(pixels, orientation, fixes), kind, clean, fixes, blank)


def _verdict(profile: bytes, mode: str, fixes: set[str]) -> Verdict:
    verdict = colour.judge(profile, mode) if profile else Verdict.KEEP
    if verdict is Verdict.CUT:
        fixes.add("strip_metadata")
    return verdict


def _turn(pixels: np.ndarray, orientation: int, fixes: set[str]) -> np.ndarray:
    if orientation == 1:
        return pixels
    fixes.add("exif_rotate")
    return rotate(pixels, orientation)
