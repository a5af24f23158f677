"""What is no JPEG, through Pillow with its warnings as errors: open, check, load the first frame, make it sRGB."""

from __future__ import annotations

import threading
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from infra import colour
from infra.bad_image import BadImage
from infra.png import MAX_TEXT

_FORMATS = {
    "jpeg": ("JPEG", "MPO"),
    "png": ("PNG",),
    "webp": ("WEBP",),
    "gif": ("GIF",),
    "tiff": ("TIFF",),
    "bmp": ("BMP",),
}
_ORIENTATION, _BITS = 0x0112, 0x0102  # TIFF tags
# An opacity of 2 in 255 moves white by two levels at most: less than an eye tells apart.
_INVISIBLE = 2


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises BadImage where a header claims no size, or more than the limit."""
    if width < 1 or height < 1:
        raise BadImage("corrupt", f"the header claims {width} × {height} pixels")
    if width * height > max_pixels:
        raise BadImage(
            "too many pixels",
            f"{width} × {height} is {width * height / 1e6:.0f} megapixels, the limit is {max_pixels / 1e6:.0f}",
        )


def open_picture(data: bytes, kind: str) -> Image.Image:
    """The header as Pillow reads it, nothing decoded. Raises BadImage."""
    with strictly(kind):
        return Image.open(BytesIO(data), formats=_FORMATS[kind])


def load(data: bytes, kind: str, max_pixels: int, fixes: set[str]) -> Image.Image:
    """The first frame, decoded; upright where it is a TIFF, whose rotation only Pillow knows. Raises BadImage."""
    with open_picture(data, kind) as picture, strictly(kind):
        check_pixels(
            picture.width, picture.height, max_pixels
        )  # a frame may be larger than the canvas that the header claims
        if getattr(picture, "is_animated", False):
            fixes.add("first_frame")
        if kind == "tiff":
            tags = picture.getexif()
            bits = tags.get(_BITS, 8)
            if max(bits if isinstance(bits, tuple) else (bits,)) > 8:
                fixes.add("depth16_to_8")
            if tags.get(_ORIENTATION, 1) in range(2, 9):
                fixes.add("exif_rotate")
        picture.load()
        return (ImageOps.exif_transpose(picture) or picture) if kind == "tiff" else picture.copy()


def blank(picture: Image.Image) -> str:
    """Why there is nothing to see in a loaded picture; "" where there may be.

    One bit per pixel, however it is stored, is a scan or a stencil: it holds no light, so nothing of a photograph can
    be learned from it.
    """
    with strictly("picture"):
        if picture.mode == "1":
            return "bilevel: one bit per pixel holds no tones"
        if picture.mode in ("P", "L") and len(picture.getcolors(256) or ()) == 2:
            return "bilevel: two values in the whole picture hold no tones"
        if _has_alpha(picture):
            opacity = int(np.asarray(picture.convert("RGBA").getchannel("A")).max())
            if opacity <= _INVISIBLE:
                return f"fully transparent: no pixel has an opacity over {opacity} of 255"
    return ""


def to_srgb(picture: Image.Image, profile: bytes, fixes: set[str]) -> np.ndarray:
    """A loaded picture of any mode → uint8 (H, W, 3): 16 bits scaled, the profile applied, alpha laid on white.

    `profile` is the one to convert from, b"" for none; what was done is added to `fixes`. Raises BadImage.
    """
    with strictly("picture"):
        if picture.mode in ("F", "I", "I;16", "I;16B", "I;16L"):
            picture = eight_bits(picture)
            fixes.add("depth16_to_8")
        fix = {"P": "palette_to_rgb", "PA": "palette_to_rgb", "CMYK": "cmyk_to_rgb"}.get(picture.mode)
        base = profile_mode(picture)
        if fix or base == "L":
            fixes.add(fix or "gray_to_rgb")
        alpha = None
        if _has_alpha(picture):
            picture = picture.convert("RGBA")
            alpha = picture.getchannel("A")
        picture = picture.convert(base)
        if profile:
            picture = colour.convert(picture, profile)
            fixes.add("icc_to_srgb")
        picture = picture.convert("RGB")
        if alpha is not None and alpha.getextrema() == (255, 255):
            fixes.add("alpha_ignored")  # opaque everywhere: the colours are the picture
        elif alpha is not None:
            white = Image.new("RGB", picture.size, (255, 255, 255))
            white.paste(picture, mask=alpha)
            picture = white
            fixes.add("alpha_flatten")
        return np.asarray(picture).copy()


def profile_mode(picture: Image.Image) -> str:
    """The mode, L, RGB or CMYK, in which the profile of a picture speaks."""
    if picture.mode == "CMYK":
        return "CMYK"
    return "L" if picture.mode in ("1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L") else "RGB"


def alpha(picture: Image.Image) -> np.ndarray | None:
    """uint8 (H, W), 255 opaque; None for a picture without transparency, or with one value of 16 bits for it."""
    if not _has_alpha(picture) or picture.mode.startswith("I"):
        return None
    return np.asarray(picture.convert("RGBA").getchannel("A"))


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info


def eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits → mode L, scaled by 257; the one transparent value, if any, becomes white."""
    deep = np.asarray(picture)
    if picture.mode == "F" or (picture.mode == "I" and (deep.min() < 0 or deep.max() > 65535)):
        raise BadImage("unsupported", f"pixels of Pillow's mode {picture.mode} have no known white")
    grey = ((deep.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        grey[deep == clear] = 255
    return Image.fromarray(grey)


_STRICT = (RuntimeWarning, UserWarning)
_strict = threading.Lock()


def _be_strict() -> None:
    """Pillow's warnings are errors from now on, in this process; those of others stay what they are.

    For good, as filters belong to all threads: one that puts back what it found takes away what another has set.
    """
    with _strict:
        if [(one[0], one[2]) for one in warnings.filters[: len(_STRICT)]] != [("error", kind) for kind in _STRICT]:
            for kind in reversed(_STRICT):
                warnings.filterwarnings("error", module=r"PIL\.", category=kind)


class strictly:
    """Pillow's warnings become errors, its errors become BadImage. Of any number of threads at once."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __enter__(self) -> None:
        # Pillow's own caps on decompressed PNG text; the pixel cap is ours and checked before.
        PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT
        PngImagePlugin.MAX_TEXT_MEMORY = 4 * MAX_TEXT
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        _be_strict()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
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
