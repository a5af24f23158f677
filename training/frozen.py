"""Frozen networks beside the one that is trained: on this rank's device, where its batches are."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from infra.jobs.ranks import place
from training import precision

M = TypeVar("M", bound=nn.Module)


def own_device(wanted: str) -> torch.device:
    """As `precision.device_named`; of several GPUs this rank's, in every thread and before it has joined the others."""
    device = precision.device_named(wanted)
    return torch.device("cuda", place().local_rank) if device.type == "cuda" else device


def beside(module: M, tensor: Tensor) -> M:
    """`module` on the tensor's device; it is moved only when it lies elsewhere.

    For every microbatch: `.to` alone would walk through all weights each time, only to find that they are there.
    """
    if next(module.parameters()).device != tensor.device:
        module.to(tensor.device)
    return module
