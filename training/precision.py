"""Which device a training runs on, and which number format its forward passes use: measured, never assumed."""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from infra.errors import BackdropError
from infra.jobs.ranks import place

log = logging.getLogger(__name__)


def device_named(wanted: str) -> torch.device:
    """auto, cpu or cuda → the device; of several GPUs this rank's, in every thread and before it has joined the others.

    Raises BackdropError when a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        build = "this build of PyTorch has no CUDA" if torch.version.cuda is None else "CUDA finds no usable GPU"
        raise BackdropError(
            f"device: cuda was asked for, and {build}", "set device: auto or cpu, or run where nvidia-smi shows a GPU"
        )
    return torch.device("cuda", place().local_rank) if there and wanted != "cpu" else torch.device("cpu")


_chosen: dict[str, torch.dtype] = {}


def fast_dtype(device_type: str = "cpu") -> torch.dtype:
    """bfloat16 where its matrix product is clearly faster than float32's, else float32, unless it was settled.

    Measured once per process, in about 20 ms.
    """
    if device_type not in _chosen:
        ratio = gemm_seconds(torch.float32, device_type) / gemm_seconds(torch.bfloat16, device_type)
        chosen = torch.bfloat16 if ratio > 1.2 else torch.float32
        log.info("%s: bfloat16 products run at %.1f times float32's speed: using %s", device_type, ratio, name(chosen))
        _chosen[device_type] = chosen
    return _chosen[device_type]


def settle(device_type: str, wanted: str) -> None:
    """Makes a format, by its name, this process's for a device: another's timing may have come out otherwise."""
    _chosen[device_type] = {name(dtype): dtype for dtype in (torch.bfloat16, torch.float32)}[wanted]


def gemm_seconds(dtype: torch.dtype, device_type: str, rows: int = 1024, inner: int = 256, columns: int = 768) -> float:
    """Best of several times of (rows, inner) @ (inner, columns)."""
    a = torch.randn(rows, inner, device=device_type).to(dtype)
    b = torch.randn(columns, inner, device=device_type).to(dtype)
    wait = torch.cuda.synchronize if device_type == "cuda" else (lambda: None)
    best = float("inf")
    for turn in range(6):
        wait()
        start = time.perf_counter()
        F.linear(a, b)
        wait()
        if turn:  # the first one warms up
            best = min(best, time.perf_counter() - start)
    return best


@contextlib.contextmanager
def _both(dtype: torch.dtype):  # type: ignore[no-untyped-def]
    with torch.autocast("cpu", dtype=dtype), torch.autocast("cuda", dtype=dtype):
        yield


def autocast(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast of operations to `dtype`, on whichever device; weights stay float32. Nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return _both(dtype) if torch.cuda.is_available() else torch.autocast("cpu", dtype=dtype)


def mixed(device: torch.device) -> AbstractContextManager[object]:
    """Autocast of a device's operations to its fast format."""
    return autocast(fast_dtype(device.type))


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
