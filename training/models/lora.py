"""Low-rank adaptation (Hu et al. 2021) of linear layers: added, merged, taken out again, exactly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """y = W x + b + scale · B (A x), with W and b frozen. B starts at zero, so that nothing changes at first."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.a), self.b)

    def delta(self) -> Tensor:
        """What merging adds to the weight, (out, in)."""
        return self.scale * (self.b @ self.a)


def add_lora(model: nn.Module, rank: int, scale: float = 1.0) -> list[str]:
    """Wrap every linear layer of `model` in place and freeze all else; returns the wrapped layers' names."""
    model.requires_grad_(False)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        _replace(model, name, LoRALinear(_linear(model, name), rank, scale))
    return names


@torch.no_grad()
def merge_lora(model: nn.Module) -> dict[str, Tensor]:
    """Fold every adapter into its layer in place and remove it; returns the weights as they were, by layer."""
    before = {}
    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, LoRALinear)]:
        before[name] = module.base.weight.detach().clone()
        module.base.weight += module.delta()
        _replace(model, name, module.base)
    model.requires_grad_(True)
    return before


@torch.no_grad()
def unmerge_lora(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Put back the weights that `merge_lora` returned: exact, where subtracting the delta would round."""
    for name, weight in before.items():
        _linear(model, name).weight.copy_(weight)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{name} is a {type(module).__name__}, not a Linear")
    return module


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
