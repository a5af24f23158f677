"""Arrays of pixels: turn, crop, scale and encode. Everything is uint8 (H, W, 3) sRGB or (H, W) grey."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg


def rotate(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1…8) on (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Centre crop to a square, then resize to uint8 (size, size[, 3]); by area when shrinking."""
    return cover(image, size, size)


def cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centre crop to the shape of height × width, then resize to uint8 (height, width[, 3]); by area when shrinking."""
    scale = min(image.shape[0] / height, image.shape[1] / width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image.shape[0] - tall) // 2, (image.shape[1] - wide) // 2
    cut = np.ascontiguousarray(image[top : top + tall, left : left + wide])
    if (tall, wide) == (height, width):
        return cut
    return cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC)


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
