"""Photographs for the studio's tests, drawn: a grey box before a red wall, and files that are wrong in one way each.

With what is asked about them, and how an answer is read.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib

import httpx
import numpy as np
from PIL import Image

from infra.images import decode, encode_jpeg, encode_png


def photograph(width: int = 200, height: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3) with some grain, and the box's mask bool (H, W)."""
    rng = np.random.default_rng(width * height)
    image = np.full((height, width, 3), (180, 60, 50), np.uint8)
    image[height // 2 :] = (70, 90, 160)
    product = np.zeros((height, width), bool)
    product[height // 3 : 3 * height // 4, width // 3 : 2 * width // 3] = True
    image[product] = 128
    return image + rng.integers(0, 12, image.shape, np.uint8), product


def png_of(mask: np.ndarray) -> bytes:
    return encode_png(mask.astype(np.uint8) * 255)


def saved(image: np.ndarray, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()


def turned(image: np.ndarray) -> bytes:
    """A JPEG that lies on its side, with the orientation that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(np.rot90(image).copy(), "JPEG", quality=95, exif=exif)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims, and holds, width × height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = b"\0" + bytes((width + 7) // 8)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * height, 9))
        + chunk(b"IEND", b"")
    )


@functools.cache
def bad_files() -> dict[str, tuple[bytes, int]]:
    """Name → a file that is no usable photograph, and the status that says so."""
    image, _ = photograph()
    jpeg, png = encode_jpeg(image), encode_png(image)
    broken = bytearray(png)
    broken[len(broken) // 2] ^= 0xFF
    return {
        "text": (b"this is no picture at all", 415),
        "page": (b"<html><script>alert(1)</script></html>", 415),
        "empty": (b"", 422),
        "cut jpeg": (jpeg[: len(jpeg) // 2], 422),
        "cut png": (png[: len(png) // 2], 422),
        "flipped png": (bytes(broken), 422),
        "header only": (jpeg[:4], 422),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(64), 415),
        "bomb": (bomb(60_000, 60_000), 413),
        "40 megapixels": (saved(np.zeros((5000, 8000), np.uint8), "PNG"), 413),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415),
    }


IMAGE, PRODUCT = photograph()
PHOTOGRAPH, MASK = encode_png(IMAGE), png_of(PRODUCT)
FILES = {"photograph": PHOTOGRAPH, "mask": MASK}
WORDS = {"prompt": "a box on a blue floor against a white wall"}


def pictures(client: httpx.Client, answer: httpx.Response, side: int = 0) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text
    found = []
    for one in answer.json()["answers"][side]["candidates"]:
        assert one["pixels"]["identical"]
        file = client.get(one["picture"])
        assert file.status_code == 200
        assert file.headers["content-type"] == f"image/{one['picture'].rpartition('.')[2]}"
        found.append(decode(file.content))
    return found


def refused(answer: httpx.Response, status: int) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    told: dict[str, str] = answer.json()
    assert told["error"]
    return told
