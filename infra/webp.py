"""WebP: the RIFF chunks, checked and cut. The compressed picture passes bit for bit; Pillow decodes what is left.

A picture without alpha and profile becomes the simple form (one chunk); the rest keeps an extended header with only
the flags that are true. Layout: RFC 9649.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from infra.bad_image import BadImage
from infra.exif import orientation

_PROFILE, _ALPHA, _ANIMATION = 0x20, 0x10, 0x02  # flags of the extended header
_MAX_CHUNKS = 1 << 16  # frames of an animation mostly: an hour of them


@dataclass
class Layout:
    """What stands where in a WebP. `width` and `height` are of the canvas."""

    width: int = 0
    height: int = 0
    animated: bool = False
    orientation: int = 1
    profile: bytes = b""
    alpha: bytes = b""  # the ALPH chunk, padded
    image: bytes = b""  # the VP8 or VP8L chunk, padded
    fixes: set[str] = field(default_factory=set)

    def picture(self, data: bytes, keep_profile: bool) -> bytes:
        """The file without what is cut; an animation as it is, for its first frame is encoded anew."""
        if self.animated:
            return data
        chunks = self.alpha + self.image
        if self.alpha or (keep_profile and self.profile):
            flags = (_ALPHA if self.alpha or self._lossless_alpha else 0) | (_PROFILE if keep_profile else 0)
            size = (self.width - 1).to_bytes(3, "little") + (self.height - 1).to_bytes(3, "little")
            profile = _chunk(b"ICCP", self.profile) if keep_profile else b""
            chunks = _chunk(b"VP8X", bytes((flags, 0, 0, 0)) + size) + profile + chunks
        return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks

    @property
    def _lossless_alpha(self) -> bool:
        return self.image[:4] == b"VP8L" and bool(self.image[12] & 0x10)


def walk(data: bytes) -> Layout:
    """Every chunk of the file. Raises BadImage."""
    layout = Layout()
    try:
        _walk(data, layout)
    except (struct.error, IndexError):
        raise BadImage("truncated", "a WebP chunk is incomplete") from None
    if not layout.width or not layout.height or not (layout.image or layout.animated):
        raise BadImage("corrupt", "no picture in the WebP")
    return layout


def _walk(data: bytes, layout: Layout) -> None:
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    if end > len(data):
        raise BadImage("truncated", f"the WebP claims {end} bytes, there are {len(data)}")
    if len(data) > end + (size & 1):
        layout.fixes.add("trailing_bytes_cut")
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        name, length = struct.unpack_from("<4sI", data, at)
        stop = at + 8 + length
        if stop > end:
            raise BadImage("truncated", f"the WebP chunk {name!r} claims {length} bytes")
        body = data[at + 8 : stop] if name != b"ANMF" else b""
        _place(layout, name, body)
        at = stop + (length & 1)
    raise BadImage("metadata limit", f"more than {_MAX_CHUNKS} chunks in one WebP")


def _place(layout: Layout, name: bytes, body: bytes) -> None:
    if name == b"VP8X":
        layout.animated = bool(body[0] & _ANIMATION)
        layout.width = 1 + int.from_bytes(body[4:7], "little")
        layout.height = 1 + int.from_bytes(body[7:10], "little")
    elif name in (b"VP8 ", b"VP8L") and not layout.image:
        size = _lossy_size(body) if name == b"VP8 " else _lossless_size(body)
        if layout.width and size != (layout.width, layout.height):
            raise BadImage("corrupt", f"a WebP of {layout.width} × {layout.height} holds one of {size[0]} × {size[1]}")
        layout.width, layout.height = size
        layout.image = _chunk(name, body)
    elif name == b"ALPH" and not layout.alpha and not layout.image:
        layout.alpha = _chunk(name, body)
    elif name == b"ICCP" and not layout.profile:
        layout.profile = body or b"?"
    elif name in (b"ANIM", b"ANMF"):
        layout.animated = True
        layout.fixes.update(("first_frame", "format_to_jpeg"))
    else:
        layout.fixes.add("strip_metadata")
        if name == b"EXIF":
            layout.orientation = orientation(body)


def _lossy_size(body: bytes) -> tuple[int, int]:
    if body[3:6] != b"\x9d\x01\x2a":
        raise BadImage("corrupt", "no start code in the WebP's frame")
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _lossless_size(body: bytes) -> tuple[int, int]:
    if body[0] != 0x2F:
        raise BadImage("corrupt", "no signature in the lossless WebP")
    (bits,) = struct.unpack_from("<I", body, 1)
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
