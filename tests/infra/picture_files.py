"""Picture files made for tests: every format, and the pieces that metadata hides in."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms


def photo(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Something smooth with detail in every corner, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def saved(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def segment(code: int, body: bytes) -> bytes:
    """One JPEG segment."""
    return bytes((0xFF, code)) + struct.pack(">H", len(body) + 2) + body


def chunk(name: bytes, body: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def riff(name: bytes, body: bytes) -> bytes:
    """One WebP chunk."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def srgb() -> bytes:
    """Little CMS's sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped() -> bytes:
    """sRGB with the red and the green primary exchanged: a profile that visibly is another colour space."""
    profile = srgb()
    for old, new in ((b"rXYZ", b"____"), (b"gXYZ", b"rXYZ"), (b"____", b"gXYZ")):
        profile = profile.replace(old, new, 1)
    return profile


def linear_grey() -> bytes:
    """A grey profile whose values are proportional to light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    line = b"curv\0\0\0\0" + struct.pack(">I", 0)
    text = b"text\0\0\0\0none\0\0\0\0"
    tags, bodies, at = b"", b"", 132 + 4 * 12
    for name, body in ((b"wtpt", white), (b"kTRC", line), (b"cprt", text), (b"desc", text)):
        tags += struct.pack(">4sII", name, at + len(bodies), len(body))
        bodies += body
    head = struct.pack(">I4xI4s4s4s", at + len(bodies), 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", 4) + tags + bodies


def icc_segments(profile: bytes, part: int = 200) -> bytes:
    """A profile in as many APP2 segments as its parts need."""
    parts = [profile[at : at + part] for at in range(0, len(profile), part)]
    heads = (b"ICC_PROFILE\0" + bytes((number, len(parts))) for number in range(1, len(parts) + 1))
    return b"".join(segment(0xE2, head + body) for head, body in zip(heads, parts, strict=True))
