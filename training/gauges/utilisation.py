"""Model FLOPs utilisation: the share of the machine's arithmetic that goes into the model's own operations.

Measured against the datasheet (PaLM, Chowdhery et al. 2022, appendix B) and against a matrix product timed at start on
the same device, threads and number format: the first compares machines, the second tells what is left to gain.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from infra.jobs.ranks import Place
from training import precision
from training.composer_model import Loss, size_of
from training.draws import Draws
from training.feed import Batch

DATASHEET_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
}
"""Dense bfloat16, by a part of the GPU's name; the first that fits."""

COUNTED = 8
"""Samples of a batch whose operations are counted."""


class Utilisation:
    """`flops` per sample, forward and backward; `peak` and `gemm` FLOP/s of one rank's device."""

    def __init__(self, flops: float, here: Place, peak: float | None, gemm: float) -> None:
        self.flops, self.ranks, self.peak, self.gemm = flops, here.ranks, peak, gemm

    @classmethod
    def of(cls, model: nn.Module, loss: Loss, batch: Batch, here: Place) -> Utilisation:
        """Counts the operations of `loss` on a few samples of `batch`, and times a matrix product."""
        device = next(model.parameters()).device
        return cls(flops_per_sample(model, loss, batch), here, peak_flops(device), gemm_flops(device))

    def read(self, images: int, seconds: float) -> Mapping[str, float]:
        rate = self.flops * images / self.ranks / seconds  # FLOP/s of one rank
        read = {"tflops": rate / 1e12, "mfu_of_gemm": rate / self.gemm}
        return {**read, "mfu": rate / self.peak} if self.peak else read


def flops_per_sample(model: nn.Module, loss: Loss, batch: Batch) -> float:
    """Operations (a multiply and an add are two) of one sample's forward and backward, frozen parts included.

    Works on a copy: a loss may move buffers, and counting must not change what is trained.
    """
    counted = copy.deepcopy(model).train()
    device = next(counted.parameters()).device
    few = {name: value[:COUNTED].to(device) for name, value in batch.items()}
    trained = [parameter for parameter in counted.parameters() if parameter.requires_grad]
    # Plain attention, in products that are counted.
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        total = loss(counted, few, Draws.of(few, 0, -1))["loss"]
        torch.autograd.grad(total, trained, allow_unused=True)
    return counter.get_total_flops() / size_of(few)


def peak_flops(device: torch.device) -> float | None:
    """The datasheet's dense bfloat16 FLOP/s of a GPU that is known; None for others and for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * rate for part, rate in DATASHEET_TFLOPS.items() if part in name), None)


def gemm_flops(device: torch.device) -> float:
    """FLOP/s of a square matrix product in the device's fast format, the best of several."""
    side = 8192 if device.type == "cuda" else 1024
    seconds = precision.gemm_seconds(precision.fast_dtype(device.type), device.type, side, side, side)
    return 2 * side**3 / seconds
