"""Lines of text in a picture, by RapidOCR's models (PP-OCR, Apache-2.0), which its wheel brings along: nothing is
downloaded.

The only module that knows RapidOCR. Its parts are called one by one: detection always, recognition for the lines that
matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """One detected line: its corners clockwise from the top left, (4, 2) in pixels, and the detector's confidence."""

    corners: np.ndarray
    confidence: float


class TextReader:
    """One detector and one recogniser on one thread each: the scan's workers already use every core.

    Args:
        side: longer side in pixels at which text is looked for; larger pictures are shrunk, smaller ones enlarged up
        to twice, for the detector misses letters of fewer than ten pixels.
    """

    def __init__(self, side: int) -> None:
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(1)
        settings = {
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.limit_type": "max",
            "Det.limit_side_len": side,
        }
        engine = RapidOCR(params=settings)
        self._side = side
        self._detect = engine._load_det_model()
        self._recogniser = engine._load_rec_model

    def find(self, pixels: np.ndarray) -> list[Line]:
        """Lines of text in uint8 (H, W, 3) sRGB."""
        import cv2

        scale = min(2.0, max(1.0, self._side / max(pixels.shape)))
        seen = pixels if scale == 1 else cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        found = self._detect(np.ascontiguousarray(seen[:, :, ::-1]))
        if found.boxes is None:
            return []
        corners = (np.asarray(box, dtype=np.float32) / scale for box in found.boxes)
        return [Line(box, float(score)) for box, score in zip(corners, found.scores, strict=True)]

    def read(self, pixels: np.ndarray, lines: Sequence[Line]) -> list[tuple[str, float]]:
        """What each line says, and how sure the recogniser is of it, 0 … 1."""
        from rapidocr.ch_ppocr_rec import TextRecInput
        from rapidocr.utils.process_img import get_rotate_crop_image

        if not lines:
            return []
        swapped = np.ascontiguousarray(pixels[:, :, ::-1])
        crops: Any = [get_rotate_crop_image(swapped, line.corners.copy()) for line in lines]
        read = self._recogniser()(TextRecInput(img=crops))
        return [(str(text), float(score)) for text, score in zip(read.txts or (), read.scores or (), strict=True)]
