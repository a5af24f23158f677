"""The one thing that EXIF is read for: which way is up."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_TYPES = {3: "H", 4: "I"}  # SHORT as the standard says, LONG as some cameras write it


def orientation(block: bytes) -> int:
    """The orientation (1…8) in an EXIF block, with or without its "Exif\\0\\0" prefix; 1 where it makes no sense."""
    tiff = block[6:] if block[:6] == b"Exif\0\0" else block
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION and kind in _TYPES:
                (value,) = struct.unpack_from(order + _TYPES[kind], tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a broken EXIF block does not spoil good pixels
        pass
    return 1
