"""What the ranks of a training agree on. With one rank nothing here does anything."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from infra.errors import BackdropError
from infra.jobs.ranks import Place, complete, place

T = TypeVar("T")

PATIENCE_S = 3600.0
"""How long ranks wait for each other: one may be copying 16 GB of checkpoint to or from a store. Ranks that die are
noticed otherwise (`infra.jobs.ranks`)."""


def join(device: torch.device) -> Place:
    """This process's place, known to Composer from now on, and connected to the others where there are any."""
    from training._compat.composer import initialize_dist

    complete(os.environ)
    for name in ("composer", "streaming"):
        logging.getLogger(name).setLevel(logging.WARNING)
    here = place()
    if here.ranks > 1:
        if device.type == "cuda":
            torch.cuda.set_device(here.local_rank)
        else:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // here.local_ranks))
        initialize_dist("gpu" if device.type == "cuda" else "cpu", PATIENCE_S)
    return here


def share_of(batch_size: int, here: Place) -> int:
    """How many samples of a global batch each rank takes."""
    share, rest = divmod(batch_size, here.ranks)
    if rest or not share:
        raise BackdropError(
            f"a batch of {batch_size} cannot be shared by {here.ranks} ranks",
            f"use a batch_size of at most {batch_size} that {here.ranks} divides, or fewer ranks",
        )
    return share


def from_first(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not _several():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def everyones(value: T) -> list[T]:
    """The values of all ranks, by rank."""
    if not _several():
        return [value]
    box: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def anyone(said: bool, device: torch.device) -> bool:
    """Whether any rank says so."""
    if not _several():
        return said
    flag = torch.tensor(int(said), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means over the ranks of scalars that all have under the same names."""
    if not _several() or not values:
        return dict(values)
    names = sorted(values)
    stacked = torch.stack([values[name].detach().float() for name in names])
    dist.all_reduce(stacked)
    return dict(zip(names, (stacked / dist.get_world_size()).unbind(), strict=True))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
