"""PNG: the chunks, checked and cut. The compressed picture passes bit for bit; Pillow decodes what is left.

Pillow checks neither the checksums of the picture's chunks nor the end of its stream, so both are checked here, with
no more memory than a window. Text is never needed; it is only inflated, up to a limit, to tell a bomb from a note.
Chunks: PNG specification (third edition), clauses 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from infra.bad_image import BadImage
from infra.colour import MAX_PROFILE
from infra.exif import orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# XMP, the longest text that software writes, is advised to stay under 64 KiB and measured in hundreds at worst.
MAX_TEXT = 1 << 20  # bytes of one text, inflated
_MAX_TEXTS = 4 << 20  # bytes of all of them
# Encoders write chunks of 8 KiB and more: a picture of the largest size accepted is 64 thousand of those.
_MAX_CHUNKS = 1 << 17
_WINDOW = 1 << 16  # bytes inflated from at a time; deflate makes at most 1032 times as much of them

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_SIZES = {b"IEND": 0, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"sBIT": 4}  # a few numbers: no room for anything else
# x and y of the first pixel and the steps between pixels of the seven passes of an interlaced picture.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SRGB = b"\0\0\0\1sRGB\0" + struct.pack(">I", zlib.crc32(b"sRGB\0"))
_PROFILE_NAMES = {b"ICC Profile", b"ICC profile", b"icc", b"sRGB", b"sRGB IEC61966-2.1", b"Photoshop ICC profile"}


@dataclass
class Layout:
    """What stands where in a PNG. `depth` is in bits per channel, `colour` the colour type of the header."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    orientation: int = 1
    profile: bytes = b""
    profile_at: tuple[int, int] | None = None
    named: bool = False  # the profile's chunk has one of the usual names and nothing behind the profile
    whole: bool = True  # False: bytes that are no pixels ride in the compressed stream
    fixes: set[str] = field(default_factory=set)
    keep: list[tuple[int, int]] = field(default_factory=list)

    def picture(self, data: bytes, keep_profile: bool) -> bytes:
        """The file without what is cut; a profile that stays under an unusual name becomes the sRGB chunk."""
        pieces = [SIGNATURE]
        for place in self.keep:
            if place != self.profile_at:
                pieces.append(data[place[0] : place[1]])
            elif keep_profile:
                pieces.append(data[place[0] : place[1]] if self.named else _SRGB)
        clean = b"".join(pieces)
        return data if clean == data else clean


def header(data: bytes) -> Layout:
    """The first chunk. Raises BadImage."""
    if len(data) < 33:
        raise BadImage("truncated", "the PNG header is incomplete")
    if data[8:16] != b"\0\0\0\rIHDR":
        raise BadImage("corrupt", "the PNG does not begin with its header chunk")
    width, height, depth, colour, packing, filtering, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16) or packing or filtering or interlace > 1:
        raise BadImage("corrupt", f"a PNG header of colour type {colour}, depth {depth}, interlace {interlace}")
    return Layout(width, height, depth, colour, bool(interlace))


def walk(data: bytes) -> Layout:
    """Every chunk, and the compressed stream to its end. The pixel limit must be checked before. Raises BadImage."""
    layout = header(data)
    at, texts = len(SIGNATURE), 0
    stream: list[tuple[int, int]] = []
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            raise BadImage("truncated", "the PNG stops before its end chunk")
        length, name = struct.unpack_from(">I4s", data, at)
        stop = at + 12 + length
        if stop > len(data):
            raise BadImage("truncated", f"the PNG chunk {name!r} claims {length} bytes, {len(data) - at - 12} are left")
        body = memoryview(data)[at + 8 : stop - 4]
        if name in (b"zTXt", b"iTXt"):
            texts += _text_size(name, body)
            if texts > _MAX_TEXTS:
                raise BadImage("metadata limit", f"more than {_MAX_TEXTS >> 20} MiB of text in one PNG")
        _place(layout, name, body, (at, stop), data)
        if name == b"IDAT":
            stream.append((at + 8, stop - 4))
        at = stop
        if name == b"IEND":
            break
    else:
        raise BadImage("metadata limit", f"more than {_MAX_CHUNKS} chunks in one PNG")
    if at < len(data):
        layout.fixes.add("trailing_bytes_cut")
    layout.whole = _inflates(data, stream, _stream_size(layout))
    return layout


def _place(layout: Layout, name: bytes, body: memoryview, place: tuple[int, int], data: bytes) -> None:
    """Keep a chunk, read what it is kept for, or leave it out."""
    critical = not name[0] & 0x20
    if critical or name in (*_SIZES, b"tRNS", b"iCCP"):
        (stored,) = struct.unpack_from(">I", data, place[1] - 4)
        if zlib.crc32(data[place[0] + 4 : place[1] - 4]) != stored:
            raise BadImage("corrupt", f"the checksum of the PNG chunk {name!r} does not fit")
    if _is_picture(layout, name, len(body)):
        layout.keep.append(place)
    elif name == b"iCCP" and layout.profile_at is None:
        layout.profile, layout.named = _profile(bytes(body))
        layout.profile_at = place
        layout.keep.append(place)
    elif name in (b"acTL", b"fcTL", b"fdAT"):
        layout.fixes.add("first_frame")
    elif critical and name not in (b"PLTE", b"IEND"):
        raise BadImage("corrupt", f"{name!r} is no chunk of a PNG")
    else:
        layout.fixes.add("strip_metadata")
        if name == b"eXIf":
            layout.orientation = orientation(bytes(body))


def _is_picture(layout: Layout, name: bytes, length: int) -> bool:
    """Whether a chunk is needed to show the picture and can hold nothing else."""
    if name in (b"IHDR", b"IDAT"):
        return True
    if name == b"PLTE":
        return layout.colour == 3
    if name == b"tRNS":
        return layout.colour in (0, 2, 3)
    return length <= _SIZES.get(name, -1)


def _text_size(name: bytes, body: memoryview) -> int:
    """Bytes that a packed text is inflated to, as far as the limit. Raises BadImage('metadata limit')."""
    raw = bytes(body)
    word = raw.find(b"\0")
    packed = b""
    if name == b"zTXt":
        packed = raw[word + 2 :]
    elif name == b"iTXt" and raw[word + 1 : word + 2] == b"\1":
        packed = raw[word + 3 :].split(b"\0", 2)[-1]
    inflated, over, _ = _inflate(packed, MAX_TEXT)
    if over:
        raise BadImage("metadata limit", f"a {name.decode()} chunk of {len(raw)} bytes inflates beyond {MAX_TEXT}")
    return len(inflated)


def _profile(body: bytes) -> tuple[bytes, bool]:
    name, _, rest = body.partition(b"\0")
    profile, over, behind = _inflate(rest[1:], MAX_PROFILE)
    if over:
        raise BadImage("metadata limit", f"a colour profile that inflates beyond {MAX_PROFILE >> 20} MiB")
    return profile or b"?", name in _PROFILE_NAMES and not behind


def _inflate(packed: bytes, limit: int) -> tuple[bytes, bytes, bytes]:
    """At most `limit` bytes, what the limit left packed, and what stands behind; nothing where it is no zlib stream."""
    stream = zlib.decompressobj()
    try:
        return stream.decompress(packed, limit), stream.unconsumed_tail, stream.unused_data
    except zlib.error:
        return b"", b"", b""


def _stream_size(layout: Layout) -> int:
    """Bytes of the picture's inflated stream: the rows of each pass, each with a filter byte in front."""
    bits = _CHANNELS[layout.colour] * layout.depth
    passes = _ADAM7 if layout.interlaced else ((0, 0, 1, 1),)
    size = 0
    for left, top, step_x, step_y in passes:
        wide, high = -(-(layout.width - left) // step_x), -(-(layout.height - top) // step_y)
        if wide > 0 and high > 0:
            size += high * (1 + (wide * bits + 7) // 8)
    return size


def _inflates(data: bytes, stream: list[tuple[int, int]], expected: int) -> bool:
    """True: exactly the picture's bytes come out. False: the stream holds more than that. Raises BadImage."""
    inflater, found = zlib.decompressobj(), 0
    try:
        for start, stop in stream:
            for at in range(start, stop, _WINDOW):
                if inflater.eof:
                    return False
                found += len(inflater.decompress(data[at : min(at + _WINDOW, stop)], expected - found + 1))
                if inflater.unconsumed_tail and found > expected:
                    return False
    except zlib.error as error:
        raise BadImage("corrupt", f"the PNG's compressed stream: {error}") from None
    if found < expected or not inflater.eof:
        raise BadImage("truncated", f"the PNG's stream holds {found} of {expected} bytes")
    return found == expected and not inflater.unused_data
