"""The planted dirt: what a careless delivery holds beside good photographs, each with its kind known.

`plant` turns a clean JPEG into one dirty file. Kinds that a strict decoder must refuse are checked against
the line's own decoder when they are planted, so that the truth table never claims damage that did no harm.
"""

from __future__ import annotations

import cv2
import numpy as np

from infra.images import BadImage, decode, encode_jpeg

KINDS = (
    "corrupt",
    "truncated",
    "too small",
    "duplicate",
    "near duplicate",
    "text overlay",
    "not an image",
)

QUALITY = 95
SMALL_SIZE = 12
_WORDS = ("SALE", "-50%", "NEW", "SAMPLE", "SHOP", "DEMO")
_PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body><h1>Not Found</h1></body></html>\n"


def plant(kind: str, image: np.ndarray, jpeg: bytes, rng: np.random.Generator) -> bytes:
    """One dirty file.

    Args:
        kind: one of `KINDS`.
        image: the clean picture, uint8 (S, S, 3).
        jpeg: the same as the delivery stores it.
        rng: chooses the variant.

    Raises:
        ValueError: an unknown kind.
    """
    match kind:
        case "corrupt":
            return _corrupt(jpeg, rng)
        case "truncated":
            return jpeg[: int(len(jpeg) * rng.uniform(0.45, 0.85))]
        case "too small":
            small = cv2.resize(image, (SMALL_SIZE, SMALL_SIZE), interpolation=cv2.INTER_AREA)
            return encode_jpeg(small, QUALITY)
        case "duplicate":
            return jpeg
        case "near duplicate":
            return _near_duplicate(image, rng)
        case "text overlay":
            return encode_jpeg(write_text(image, rng), QUALITY)
        case "not an image":
            return _PAGE
    raise ValueError(f"unknown dirt {kind!r}; one of {', '.join(KINDS)}")


def refuses(data: bytes) -> bool:
    """Whether the line's decoder calls these bytes unusable."""
    try:
        decode(data)
    except BadImage:
        return True
    return False


def _corrupt(jpeg: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bytes, in the tables of the header or in the scan, until the decoder notices."""
    scan = jpeg.index(b"\xff\xda")
    start, stop = (4, scan) if rng.random() < 0.5 else (scan + 14, len(jpeg) - 2)
    damaged = bytearray(jpeg)
    while True:
        for place in rng.integers(start, stop, 8):
            damaged[place] ^= int(rng.integers(1, 256))
        if refuses(bytes(damaged)):
            return bytes(damaged)


def _near_duplicate(image: np.ndarray, rng: np.random.Generator) -> bytes:
    """The same photograph after a trip through somebody's software."""
    size = image.shape[0]
    match int(rng.integers(4)):
        case 0:
            return encode_jpeg(image, 60)
        case 1:
            gain = 1 + 0.03 * (1 if rng.random() < 0.5 else -1)
            return encode_jpeg(np.clip(image * gain + 0.5, 0, 255).astype(np.uint8), QUALITY)
        case 2:
            smaller = cv2.resize(image, (size * 3 // 4,) * 2, interpolation=cv2.INTER_AREA)
            return encode_jpeg(cv2.resize(smaller, (size, size), interpolation=cv2.INTER_CUBIC), QUALITY)
    edge = max(1, round(size * 0.02))  # 2 % of width and height, from one corner
    cropped = np.ascontiguousarray(image[edge:, edge:] if rng.random() < 0.5 else image[:-edge, :-edge])
    return encode_jpeg(cv2.resize(cropped, (size, size), interpolation=cv2.INTER_LINEAR), QUALITY)


def write_text(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with a banner, a caption or a watermark; uint8 (S, S, 3)."""
    out = image.copy()
    size = image.shape[0]
    word = _WORDS[rng.integers(len(_WORDS))]
    font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, size // 64)
    (width, height), _ = cv2.getTextSize(word, font, 1.0, thick)
    scale = min(0.86 * size / width, rng.uniform(0.16, 0.22) * size / height)
    (width, height), _ = cv2.getTextSize(word, font, scale, thick)
    left = int(rng.integers(1, max(2, size - width - 1)))
    style = int(rng.integers(3))
    if style == 0:  # a banner across the picture, its text in the opposite of its colour
        dark = rng.random() < 0.5
        top = 0 if rng.random() < 0.5 else size - height - max(4, size // 16)
        out[top : top + height + max(4, size // 16)] = 20 if dark else 235
        _write(out, word, left, top + height + max(2, size // 32), scale, thick, 240 if dark else 15)
    elif style == 1:  # a caption near the top or the bottom, light letters with a dark outline
        base = height + size // 16 if rng.random() < 0.5 else size - size // 16
        _write(out, word, left, base, scale, thick + max(1, size // 64), 10)
        _write(out, word, left, base, scale, thick, 250)
    else:  # a watermark: half see-through, repeated
        mark = np.zeros((size, size), np.uint8)
        for base in (size // 4 + height // 2, size * 5 // 8, size - 2):
            _write(mark, word, int(rng.integers(1, max(2, size - width - 1))), base, scale, thick, 255)
        bright = image.mean() < 128
        alpha = (mark.astype(np.float32) / 255 * 0.75)[..., None]
        out = (image * (1 - alpha) + (255 if bright else 0) * alpha + 0.5).astype(np.uint8)
    return out


def _write(canvas: np.ndarray, word: str, x: int, y: int, scale: float, thick: int, grey: int) -> None:
    colour = (grey,) * (canvas.shape[2] if canvas.ndim == 3 else 1)
    cv2.putText(canvas, word, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)
