"""Safe decoding: bytes of unknown origin in, an upright sRGB array out, or a `BadImage` that says why not.

The order is the defence: magic bytes, then the size that the header claims, then a strict decoder. JPEG goes to
simplejpeg in strict mode, the only decoder at hand that rejects flipped bits in the scan; everything else to Pillow
with its warnings as errors. OpenCV never judges: it returns full pictures for files cut in half.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from infra.errors import BackdropError

MAX_PIXELS = 64_000_000
_MAX_TEXT_CHUNK = 1 << 20
_ORIENTATION = 0x0112
_FORMATS = {"PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tiff", "BMP": "bmp"}


class BadImage(BackdropError):
    """Bytes that are no usable picture. `reason` is one of REASONS."""

    REASONS = ("empty", "not an image", "truncated", "corrupt", "too many pixels")

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}", "replace the file or leave it out")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Header:
    """What the first bytes say: format name, stored width and height in pixels (before any EXIF rotation)."""

    format: str
    width: int
    height: int


def sniff(data: bytes) -> str:
    """The format by magic bytes: jpeg, png, webp, gif, tiff or bmp. Raises BadImage('empty' | 'not an image')."""
    if not data:
        raise BadImage("empty", "the file has no bytes")
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    if data[:2] == b"BM":
        return "bmp"
    raise BadImage("not an image", f"starts with {data[:12]!r}")


def probe(data: bytes) -> tuple[str, int, int]:
    """(format, width, height) as the header claims them, nothing decoded. Raises BadImage."""
    header = _header(data)
    return header.format, header.width, header.height


def _header(data: bytes) -> Header:
    kind = sniff(data)
    if kind == "jpeg":
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
        except (ValueError, KeyError) as error:  # KeyError: a colour space it has no name for
            raise BadImage("corrupt", f"no readable JPEG header ({error})") from None
        return Header(kind, int(width), int(height))
    if kind == "png":
        if len(data) < 33 or data[12:16] != b"IHDR":
            raise BadImage("truncated", "the PNG header is incomplete")
        width, height = struct.unpack(">II", data[16:24])
        return Header(kind, width, height)
    if kind == "gif":
        if len(data) < 10:
            raise BadImage("truncated", "the GIF header is incomplete")
        width, height = struct.unpack("<HH", data[6:10])
        return Header(kind, width, height)
    with _open(data, kind) as picture:
        return Header(kind, *picture.size)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Bytes → uint8 (H, W, 3), sRGB, upright by EXIF, alpha composited on white, first frame of an animation.

    Raises BadImage with `reason` in BadImage.REASONS; no other exception for any bytes.
    """
    header = _header(data)
    if header.width < 1 or header.height < 1:
        raise BadImage("corrupt", f"the header claims {header.width} × {header.height} pixels")
    if header.width * header.height > max_pixels:
        raise BadImage(
            "too many pixels",
            f"{header.width} × {header.height} is {header.width * header.height / 1e6:.0f} megapixels, "
            f"the limit is {max_pixels / 1e6:.0f}",
        )
    if header.format == "jpeg":
        return _decode_jpeg(data)
    with _open(data, header.format) as picture, _strictly(header.format):
        picture.load()
        return np.ascontiguousarray(_to_rgb(_upright(picture)))


def _decode_jpeg(data: bytes) -> np.ndarray:
    try:
        _, _, space, _ = simplejpeg.decode_jpeg_header(data)
        if space in ("CMYK", "YCCK"):
            # Judged by the strict decoder as well; Pillow knows Adobe's inverted CMYK.
            simplejpeg.decode_jpeg(data, colorspace="CMYK", strict=True)
            with _open(data, "jpeg") as picture, _strictly("jpeg"):
                return np.ascontiguousarray(_to_rgb(_upright(picture)))
        image = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except MemoryError:
        raise BadImage("too many pixels", "the decoder ran out of memory") from None
    except (ValueError, KeyError) as error:
        text = str(error)
        reason = "truncated" if "premature" in text.lower() else "corrupt"
        raise BadImage(reason, text) from None
    orientation = _jpeg_orientation(data)
    return _rotate(image, orientation) if orientation != 1 else image


def _jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG; 1 where there is none or it makes no sense."""
    if b"Exif\x00\x00" not in data[: 65536 + 4096]:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as picture:
                value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not spoil a good scan
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rotate(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (2…8) on (H, W, 3)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture) or picture
    except Exception:  # a broken EXIF block does not spoil good pixels
        return picture


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """Any Pillow mode → uint8 (H, W, 3); 16-bit grey is scaled, not clipped; alpha lies on white."""
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        deep = np.asarray(picture).astype(np.float32)
        grey = np.clip(deep / 257.0 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.asarray(picture.convert("RGB"))


def _open(data: bytes, kind: str) -> Image.Image:
    formats = ("JPEG", "MPO") if kind == "jpeg" else tuple(k for k, v in _FORMATS.items() if v == kind)
    with _strictly(kind):
        return Image.open(io.BytesIO(data), formats=formats)


class _strictly:
    """Pillow's warnings become errors, its errors become BadImage."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        # Pillow's own caps on decompressed PNG text; the pixel cap is ours and checked before.
        PngImagePlugin.MAX_TEXT_CHUNK = _MAX_TEXT_CHUNK
        PngImagePlugin.MAX_TEXT_MEMORY = 4 * _MAX_TEXT_CHUNK
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        self._warnings.__enter__()
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ResourceWarning)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._warnings.__exit__(None, None, None)
        if error is None or isinstance(error, BadImage) or not isinstance(error, Exception):
            return
        text = f"{self.kind}: {error}" if str(error) else f"{self.kind}: {type(error).__name__}"
        lower = text.lower()
        if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError)):
            reason = "too many pixels"
        elif "truncated" in lower or "not enough image data" in lower or "unexpected end" in lower:
            reason = "truncated"
        else:
            reason = "corrupt"
        raise BadImage(reason, text) from None


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Centre crop to a square, then resize to uint8 (size, size[, 3]); by area when shrinking."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=method)


def shrink(image: np.ndarray, max_side: int) -> np.ndarray:
    """The whole picture, scaled by area so that no side is longer than `max_side`; never enlarged."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """uint8 (H, W, 3) RGB → JPEG bytes, colour at full resolution."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="444"
    )


def encode_png(image: np.ndarray) -> bytes:
    """uint8 (H, W, 3) RGB or (H, W) grey → PNG bytes."""
    array = np.ascontiguousarray(image)
    ok, data = cv2.imencode(".png", cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array)
    if not ok:
        raise ValueError(f"cannot encode an array of shape {image.shape} and type {image.dtype} as PNG")
    return data.tobytes()


def decode_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Mask bytes (PNG or another lossless format) → bool (H, W), True = product (value ≥ 128). Raises BadImage."""
    header = _header(data)
    if header.width * header.height > max_pixels:
        raise BadImage("too many pixels", f"a mask of {header.width} × {header.height} pixels")
    with _open(data, header.format) as picture, _strictly(header.format):
        if picture.mode in ("RGBA", "LA") and picture.getchannel("A").getextrema() != (255, 255):
            # A cut-out: the alpha channel is the mask.
            return np.asarray(picture.getchannel("A")) >= 128
        return np.asarray(picture.convert("L")) >= 128
