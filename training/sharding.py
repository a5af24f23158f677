"""Weights that are spread over the ranks (FSDP2: each parameter is a DTensor), beside weights that are whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from infra.jobs.ranks import Place


def configured(model: nn.Module, sharding: str, sharded_checkpoints: bool, here: Place) -> dict[str, Any] | None:
    """Composer's parallelism_config for "ddp" (None), "fsdp", or "hsdp": sharded within a node, copied across nodes.

    The layers of every ModuleList in `model` are gathered one by one, and what is outside of them together.
    """
    if sharding == "ddp":
        return None
    from training._compat.composer import Sharding

    layers = {layer for module in model.modules() if isinstance(module, nn.ModuleList) for layer in module}
    model.fsdp_wrap_fn = layers.__contains__  # type: ignore[assignment]  # where Composer looks for it
    copies = here.ranks // here.local_ranks if sharding == "hsdp" else 1
    return {"fsdp": Sharding(copies, "sharded" if sharded_checkpoints else "full")}


def loss_scale(device: torch.device) -> float:
    """What a loss is multiplied by so that sharded gradients are means over the ranks.

    FSDP asks the backend for a mean, and gloo (torch 2.7) answers with the sum without a word; so it is tried.
    """
    ones = torch.ones(dist.get_world_size(), device=device)
    answer = torch.empty(1, device=device)
    dist.reduce_scatter_tensor(answer, ones, op=dist.ReduceOp.AVG)
    return 1 / answer.item()


def mirror(sharded: nn.Module, plain: nn.Module) -> None:
    """Shard `plain` in place as `sharded`, a module of the same structure, is sharded; nothing where it is not."""
    modules = [(name, module) for name, module in sharded.named_modules() if isinstance(module, FSDPModule)]
    for name, module in reversed(modules):  # inner ones first
        first = next(parameter for parameter in module.parameters() if isinstance(parameter, DTensor))
        fully_shard(plain.get_submodule(name), mesh=first.device_mesh)


def own_part(weight: Tensor) -> Tensor:
    """This rank's part of a weight, sharing its memory; all of one that is whole."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def gathered(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole weights on every rank."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights.items()}


@torch.no_grad()
def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Like `load_state_dict`, from whole weights or from ones that are sharded as the module's are."""
    own = module.state_dict()
    if own.keys() != weights.keys():
        raise ValueError(f"weights do not fit the module: {sorted(own.keys() ^ weights.keys())[:4]}")
    for name, target in own.items():
        value = weights[name]
        if isinstance(target, DTensor) and not isinstance(value, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        own_part(target).copy_(own_part(value))
