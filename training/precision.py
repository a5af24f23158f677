"""Which number format the forward pass runs in: measured on this machine, never assumed."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def fast_dtype() -> torch.dtype:
    """bfloat16 where its matrix product is clearly faster than float32's, else float32. Costs about 20 ms."""
    x, w = torch.randn(1024, 256), torch.randn(768, 256)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = x.to(dtype), w.to(dtype)
        F.linear(a, b)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            F.linear(a, b)
            best = min(best, time.perf_counter() - start)
        seconds[dtype] = best
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    chosen = torch.bfloat16 if ratio > 1.2 else torch.float32
    log.info("bfloat16 products run at %.1f times float32's speed: using %s", ratio, name(chosen))
    return chosen


def autocast(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast of CPU operations to `dtype`; weights stay float32. Nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
