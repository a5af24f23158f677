"""Pictures to measure with: as many different ones as asked for, none a near duplicate of another.

Blends of two photographs where BACKDROP_SAMPLES names a folder that holds some, else drawn textures; JPEG, quality 90.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

_QUALITY = 90


def write_corpus(folder: Path, count: int, side: int = 512) -> list[Path]:
    """`count` JPEGs of `side` × 3/4 `side` pixels below `folder`, a thousand in each subfolder."""
    for k in range(0, count, 1000):
        (folder / f"{k // 1000:04d}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        return list(pool.map(partial(_write, folder, side), range(count), chunksize=200))


def _write(folder: Path, side: int, index: int) -> Path:
    path = folder / f"{index // 1000:04d}" / f"{index:07d}.jpg"
    rng = np.random.default_rng(index)
    size = (side, side * 3 // 4)
    photographs = _photographs(size)
    if photographs:
        # Shifted round their edges, or all that share a photograph would share its hash.
        one, other = (
            np.roll(photographs[k], rng.integers(0, size[0], 2), (0, 1))
            for k in rng.choice(len(photographs), 2, replace=False)
        )
        image = cv2.addWeighted(one, 0.5, other, 0.5, 0)
    else:
        image = _texture(rng, size)
    path.write_bytes(simplejpeg.encode_jpeg(image, quality=_QUALITY, colorsubsampling="420"))
    return path


@lru_cache(maxsize=1)
def _photographs(size: tuple[int, int]) -> list[np.ndarray]:
    folder = Path(os.environ.get("BACKDROP_SAMPLES", "")) / "photos" / "images"
    if not os.environ.get("BACKDROP_SAMPLES") or not folder.is_dir():
        return []
    pictures = [simplejpeg.decode_jpeg(path.read_bytes()) for path in sorted(folder.glob("*.jpg"))]
    return [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise on several scales, about as hard to compress as a photograph."""
    image = np.zeros((size[1], size[0], 3), np.float32)
    for cells, weight in ((4, 60), (16, 30), (64, 18), (160, 9)):
        noise = rng.normal(0, weight, (cells * 3 // 4, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    return (image + 128).clip(0, 255).astype(np.uint8)
