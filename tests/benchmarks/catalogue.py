"""How fast the sample catalogue is drawn, JPEG and mask included, on one core."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np

from assets.sample_catalogue.dirt import QUALITY
from assets.sample_catalogue.renderer import render
from infra.images import encode_jpeg, encode_png
from tests.benchmarks.promise import Promise

BAR = 100  # images per second and core, at the preset's size


def speed(size: int, count: int) -> float:
    """Images per second of processor time."""
    cv2.setNumThreads(1)
    render(0, 0, size)
    start = time.process_time()
    for index in range(count):
        scene = render(0, index, size)
        encode_jpeg(scene.image, QUALITY)
        encode_png(scene.product_mask.astype(np.uint8) * 255)
    return count / (time.process_time() - start)


def promises() -> Iterator[Promise]:
    print(f"catalogue at 32 px: {speed(32, 300):.0f} images/s, at 256 px: {speed(256, 60):.0f} images/s")
    yield Promise("catalogue images/s/core", speed(64, 600), BAR)
