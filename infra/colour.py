"""Colour profiles: which one may stay, which one is applied, which one is only cut.

A profile that changes no colour visibly is sRGB, whatever it calls itself. It stays only where every byte of it is
accounted for: profiles carry free text (a monitor's serial number, a name), and text that is not known by heart goes.
Layout: ICC.1:2022, clause 7.
"""

from __future__ import annotations

import re
import struct
from enum import StrEnum
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from infra.bad_image import BadImage

MAX_PROFILE = 8 << 20  # bytes; the largest press profiles in use are about half of that
# 2 of 255: one level is the rounding of the conversion itself, and two are below what an eye tells apart side by side.
_INVISIBLE = 2

_TEXTS = {b"desc", b"cprt", b"dmnd", b"dmdd", b"vued"}
_NUMBERS = {
    *(b"rXYZ gXYZ bXYZ wtpt bkpt rTRC gTRC bTRC kTRC chad chrm lumi meas tech view".split()),
}
# The words in the sRGB profiles that are everywhere: HP and Microsoft, Apple, Google, Facebook, ICC, Little CMS, GIMP.
_KNOWN_WORDS = re.compile(
    rb"Copyright \(c\) 1998 Hewlett-Packard Company|IEC http://www\.iec\.ch|No copyright, use freely|Public Domain|"
    rb"IEC 61966-2[.-]1 Default RGB [Cc]olou?r [Ss]pace - sRGB|Reference Viewing Condition in IEC ?61966-2[.-]1|"
    rb"Copyright Apple (Computer, )?Inc\., \d{4}|Google Inc\. 2016|Copyright International Color Consortium, \d{4}|"
    rb"GIMP built-in sRGB|sRGB built-in|sRGB IEC61966-2[.-]1|sRGB2014|sRGB|enUS|c2|FB"
)
_WORD = re.compile(rb"[\x20-\x7e\xa0-\xff]{4,}")


class Verdict(StrEnum):
    KEEP = "keep"  # sRGB, and nothing in it but colours and known words: passes bit for bit
    CUT = "cut"  # sRGB in other words, or no profile for this picture: the pixels mean the same without it
    CONVERT = "convert"  # another colour space: the pixels must be converted


@lru_cache(maxsize=32)
def judge(profile: bytes, mode: str) -> Verdict:
    """What to do with the profile of a picture of Pillow mode L, RGB or CMYK. Raises BadImage('metadata limit')."""
    if len(profile) > MAX_PROFILE:
        raise BadImage("metadata limit", f"a colour profile of {len(profile) / 1e6:.0f} MB")
    try:
        _transform(profile, mode)
    except Exception:  # a broken profile, or one for other pictures, does not spoil good pixels
        return Verdict.CUT
    if mode == "CMYK":
        return Verdict.CONVERT
    chart = _chart(mode)
    moved = np.asarray(convert(chart, profile)).astype(int) - np.asarray(chart.convert("RGB"))
    if np.abs(moved).max() > _INVISIBLE:
        return Verdict.CONVERT
    return Verdict.KEEP if _says_nothing_else(profile) else Verdict.CUT


def convert(picture: Image.Image, profile: bytes) -> Image.Image:
    """A picture of mode L, RGB or CMYK in the profile's colours → mode RGB in sRGB, perceptual intent."""
    converted = ImageCms.applyTransform(picture, _transform(profile, picture.mode))
    assert converted is not None  # only in-place transforms give None
    return converted


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL)


def _chart(mode: str) -> Image.Image:
    """Every grey, or 17³ colours evenly over the cube."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 17).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1)  # (17, 17, 17, 3)
    return Image.fromarray(np.ascontiguousarray(cube.reshape(17 * 17, 17, 3)))


def _says_nothing_else(profile: bytes) -> bool:
    """Whether every byte is a colour, a fixed field, padding or a known word."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        if count > 64 or any(profile[100:128]):  # 44 bytes reserved, but for the profile's 16-byte id
            return False
        covered = bytearray(len(profile))
        covered[: 132 + 12 * count] = b"\1" * (132 + 12 * count)
        for entry in range(count):
            tag, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
            body = profile[at : at + size]
            if len(body) != size or not (_is_text(tag, body) or _is_number(tag, body)):
                return False
            covered[at : at + size] = b"\1" * size
    except struct.error:
        return False
    return len(covered) == len(profile) and not any(b for b, seen in zip(profile, covered, strict=True) if not seen)


def _is_text(tag: bytes, body: bytes) -> bool:
    words = body[8:].replace(b"\0", b"")  # UTF-16 and ASCII look alike without zeros
    return tag in _TEXTS and not _WORD.search(_KNOWN_WORDS.sub(b"\0", words))


def _is_number(tag: bytes, body: bytes) -> bool:
    if tag not in _NUMBERS:
        return False
    if body[:4] == b"curv":
        (points,) = struct.unpack_from(">I", body, 8)
        return len(body) <= 12 + 2 * points + 3
    return len(body) <= 44  # the longest of the others: a 3 × 3 matrix
