"""What every picture filter is: a name, a version, and a judgement with a score and a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

KEEP, DROP, FIX, UNSURE = "keep", "drop", "fix", "unsure"


@dataclass(frozen=True)
class Judgement:
    """One filter's opinion on one picture. `reason` is empty for a plain keep."""

    filter: str
    version: str
    decision: str  # keep | drop | fix | unsure
    score: float
    reason: str = ""


class PictureFilter(Protocol):
    """Judges decoded pixels, uint8 (H, W, 3)."""

    name: str
    version: str

    def judge(self, image: np.ndarray) -> Judgement:
        """The verdict on one picture; pure."""
