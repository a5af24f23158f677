"""JPEG: find every segment, cut what is not picture, decode what is left strictly.

The compressed picture is never touched: what a file keeps is copied bit for bit, and the decoder is shown exactly
what would be packed. Kept are the tables, the frame, the scans, JFIF and Adobe (which say how colours are coded, cut
down to their fixed fields, so without thumbnails) and the colour profile. Everything else goes, wherever it stands:
before the frame, between two scans or after the end. Markers: ITU-T T.81, table B.1.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import numpy as np
import simplejpeg

from infra.bad_image import BadImage
from infra.exif import orientation

# A decoder repeats its work over the whole picture for every progressive scan, so scans are a bomb of their own.
# Encoders write about 10; the longest optimisers' scripts stay below 64.
_MAX_SCANS = 100
# 4096 full segments are 256 MiB of metadata; a file with more of them only costs time.
_MAX_SEGMENTS = 4096

_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD})  # DHT, DAC, DQT, DNL, DRI
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and RSTn have no length
_CUT = frozenset({*range(0xE0, 0xF0), 0xFE})  # APPn and COM
_ICC = b"ICC_PROFILE\0"
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in a scan: an FF that is no stuffing, filling or restart

_Cut = tuple[int, int, bytes]  # from, to, what stands there instead


@dataclass
class Layout:
    """What stands where in a JPEG. `width` and `height` are the stored ones, before any rotation."""

    width: int = 0
    height: int = 0
    components: int = 0
    end: int = 0  # behind the first EOI
    orientation: int = 1
    profile: bytes = b""
    fixes: set[str] = field(default_factory=set)
    cuts: list[_Cut] = field(default_factory=list)
    profile_at: list[tuple[int, int]] = field(default_factory=list)

    def picture(self, data: bytes, keep_profile: bool) -> bytes:
        """The file without what is cut: `data` itself where that is everything."""
        cuts = self.cuts if keep_profile else sorted(self.cuts + [(*place, b"") for place in self.profile_at])
        if not cuts and self.end == len(data):
            return data
        pieces: list[bytes] = []
        at = 0
        for start, stop, instead in cuts:
            pieces += (data[at:start], instead)
            at = stop
        return b"".join((*pieces, data[at : self.end]))


def walk(data: bytes) -> Layout:
    """Every segment up to the first end of image. Raises BadImage; the scans' contents are the decoder's to judge."""
    layout = Layout()
    try:
        _walk(data, layout)
    except IndexError:
        raise _cut_short(layout) from None
    if not layout.width or not layout.height:
        raise BadImage("corrupt", f"no JPEG frame header with a size ({layout.width} × {layout.height})")
    if layout.end < len(data):
        second = data.find(b"\xff\xd8\xff", layout.end) >= 0
        layout.fixes.add("second_picture_cut" if second else "trailing_bytes_cut")
    return layout


def _walk(data: bytes, layout: Layout) -> None:
    at, size, scans = 2, len(data), 0
    chunks: list[bytes] = []
    for _ in range(_MAX_SEGMENTS):
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if data[at] != 0xFF:
            raise BadImage("corrupt", f"stray bytes at {at}, where a JPEG marker should be")
        code = data[at + 1]
        if code == _EOI:
            layout.end = at + 2
            layout.profile = _profile(chunks)
            return
        if code in _BARE:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        stop = at + 2 + length
        if length < 2:
            raise BadImage("corrupt", f"the JPEG segment at {at} claims {length} bytes")
        if stop > size:
            if scans and data.find(b"\xff\xd9", at) >= 0:
                raise BadImage("corrupt", f"a damaged scan: the segment at {at} claims {length} bytes")
            raise _cut_short(layout)
        if code in _CUT:
            chunks += _metadata(data, at, stop, code, layout)
        elif code in _FRAMES:
            if layout.components:  # its size would hide the first one's from the limit on pixels
                raise BadImage("corrupt", f"a second frame header at {at} in one JPEG")
            frame = data[at + 4 : min(at + 10, stop)].ljust(6, b"\0")
            bits, layout.height, layout.width, layout.components = struct.unpack(">BHHB", frame)
            if bits != 8 or code not in (0xC0, 0xC1, 0xC2):
                raise BadImage("unsupported", f"a JPEG of {bits} bits, coding process {code - 0xC0}")
        elif code == _SOS:
            scans += 1
            if scans > _MAX_SCANS:
                raise BadImage("scan limit", f"more than {_MAX_SCANS} scans in one JPEG")
            stop = _next_marker(data, stop)
        elif code not in _TABLES:
            raise BadImage("corrupt", f"marker FF{code:02X} at {at} has no place in a JPEG")
        at = stop
    raise BadImage("metadata limit", f"more than {_MAX_SEGMENTS} segments in one JPEG")


def _cut_short(layout: Layout) -> BadImage:
    if layout.components:
        return BadImage("truncated", "the JPEG stops before its end-of-image marker")
    return BadImage("corrupt", "no JPEG frame header before the end of the file")


def _next_marker(data: bytes, start: int) -> int:
    """Where entropy-coded data that begins at `start` ends: at the first marker. Raises BadImage('truncated')."""
    found = _MARKER.search(data, start)
    if found is None:
        raise BadImage("truncated", "the JPEG stops before its end-of-image marker")
    return found.start()


def _metadata(data: bytes, at: int, stop: int, code: int, layout: Layout) -> list[bytes]:
    """Plan the cut of one APPn or COM segment; answers with the profile's part that it holds, if any."""
    body = data[at + 4 : stop]
    if code == 0xE2 and body.startswith(_ICC):
        layout.profile_at.append((at, stop))
        return [body[len(_ICC) :]]
    short = b""
    if code == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
        short = b"\xff\xe0\x00\x10" + body[:12] + b"\0\0"  # version, density; no thumbnail
    elif code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
        short = b"\xff\xee\x00\x0e" + body[:12]  # versions, flags, colour transform
    elif code == 0xE1 and body.startswith(b"Exif\0\0") and layout.orientation == 1:
        layout.orientation = orientation(body)
    if short != data[at:stop]:
        layout.cuts.append((at, stop, short))
        layout.fixes.add("strip_metadata")
    return []


def _profile(chunks: list[bytes]) -> bytes:
    """The colour profile out of its numbered parts; an incomplete one reads as b"?", which is no profile at all."""
    if not chunks:
        return b""
    parts = sorted(chunks, key=lambda part: part[:1])
    numbers = [part[0] if len(part) > 2 else 0 for part in parts]
    whole = numbers == list(range(1, len(parts) + 1)) and all(part[1] == len(parts) for part in parts)
    return b"".join(part[2:] for part in parts) if whole else b"?"


def decode(data: bytes, components: int) -> np.ndarray:
    """JPEG bytes → uint8 (H, W, 3) RGB, or (H, W, 4) ink in CMYK where it has four components. Raises BadImage."""
    try:
        if components == 4:
            # Adobe stores ink inverted, and everybody who writes CMYK JPEGs follows it.
            return 255 - simplejpeg.decode_jpeg(data, colorspace="CMYK", strict=True)
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except MemoryError:
        raise BadImage("too many pixels", "the decoder ran out of memory") from None
    except (ValueError, KeyError) as error:  # KeyError: a colour space it has no name for
        text = str(error)
        raise BadImage("truncated" if "premature" in text.lower() else "corrupt", text) from None
