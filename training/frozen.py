"""Frozen networks beside the one that is trained, where its batches are."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def beside(module: M, tensor: Tensor) -> M:
    """`module` on the tensor's device; it is moved only when it lies elsewhere.

    For every microbatch: `.to` alone would walk through all weights each time, only to find that they are there.
    """
    if next(module.parameters()).device != tensor.device:
        module.to(tensor.device)
    return module
