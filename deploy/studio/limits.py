"""How much of everything the studio takes, in one place; docs/studio.md lists the same numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one process. Pixels are counted as decoded, of the picture that comes out."""

    upload_bytes: int = 48_000_000
    """Of a whole request, photograph and mask together."""
    upload_seconds: float = 30
    pixels: int = 24_000_000
    prompt: int = 1000
    """Characters, of a prompt and of a negative prompt."""
    candidates: int = 4
    waiting: int = 16
    """Requests that are uploaded, wait, run or are encoded at once; more get 429."""
    waiting_pixels: int = 96_000_000
    """The same in pixels, for decoded photographs are what fills the memory: 3 bytes each, and a mask's one."""
    queue_seconds: float = 30
    engine_seconds: float = 120
    """A call of the engine that takes longer makes /healthz fail."""
    shelf_bytes: int = 512_000_000
    """Finished pictures kept for their download; the oldest go first. One answer of the largest ones fits."""
    shelf_pictures: int = 256
    shelf_seconds: float = 900
    idle_seconds: float = 300
    """After which a challenger that nobody asks is closed."""
    expansion: float = 4
    """How many times as wide and as high Expand makes a photograph, at most."""
