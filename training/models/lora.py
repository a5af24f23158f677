"""Low-rank adaptation (Hu et al. 2021) of linear layers: added, merged, taken out again, exactly; saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from infra.errors import BackdropError
from infra.files import canonical_json

M = TypeVar("M", bound=nn.Module)
PREFIX = "base_model.model"
"""What peft puts in front of a layer's name in a LoRA file; diffusers has `transformer`."""


class LoRALinear(nn.Module):
    """y = W x + b + scale · B (A x), with W and b frozen. B starts at zero, so that nothing changes at first."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha = scale * rank
        self.a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    @property
    def scale(self) -> float:
        return self.alpha / len(self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * F.linear(F.linear(x, self.a), self.b)

    def delta(self) -> Tensor:
        """What merging adds to the weight, (out, in)."""
        return self.scale * (self.b @ self.a)


def add_lora(model: nn.Module, rank: int, scale: float = 1.0) -> list[str]:
    """Wrap every linear layer of `model` in place and freeze all else; returns the wrapped layers' names."""
    if adapters(model):
        raise ValueError("the model has adapters already: merge_lora first")
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        _replace(model, name, LoRALinear(_linear(model, name), rank, scale))
    train_adapters(model)
    return names


def train_adapters(model: M) -> M:
    """Freezes all of `model` but its adapters."""
    model.requires_grad_(False)
    for module in adapters(model).values():
        module.a.requires_grad_(True)
        module.b.requires_grad_(True)
    return model


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The wrapped layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Fold every adapter into its layer in place and remove it."""
    for name, module in adapters(model).items():
        module.base.weight += module.delta()
        _replace(model, name, module.base)
    model.requires_grad_(True)


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights under the adapters, by layer: taken before `merge_lora` by who means to unmerge."""
    return {name: module.base.weight.detach().clone() for name, module in adapters(model).items()}


@torch.no_grad()
def unmerge_lora(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Put back `base_weights` after `merge_lora`: exact, where subtracting the delta would round."""
    for name, weight in before.items():
        _linear(model, name).weight.copy_(weight)


def save_lora(model: nn.Module, prefix: str = PREFIX) -> dict[str, Tensor]:
    """The adapters alone, in the layout that peft and diffusers write as safetensors.

    Per layer `<prefix>.<layer>.lora_A.weight` (rank, in), `.lora_B.weight` (out, rank) and the number `.alpha`: what is
    added to the weight is alpha / rank · B A.
    """
    tensors = {}
    for name, module in adapters(model).items():
        tensors[f"{prefix}.{name}.lora_A.weight"] = module.a.detach().clone()
        tensors[f"{prefix}.{name}.lora_B.weight"] = module.b.detach().clone()
        tensors[f"{prefix}.{name}.alpha"] = torch.tensor(module.alpha, dtype=torch.float64)
    return tensors


def lora_config(model: nn.Module) -> dict[str, Any]:
    """peft's adapter_config.json for the adapters of `model`, which have one rank and one alpha."""
    found = adapters(model)
    first = next(iter(found.values()))
    return {
        "peft_type": "LORA",
        "r": len(first.a),
        "lora_alpha": first.alpha,
        "target_modules": list(found),
        "bias": "none",
    }


@torch.no_grad()
def load_lora(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str = PREFIX) -> list[str]:
    """Wrap the layers that `tensors` (of `save_lora`) name and freeze all else; returns their names.

    Raises BackdropError for adapters of another model: a layer that is not there, or one of another shape.
    """
    if adapters(model):
        raise ValueError("the model has adapters already: merge_lora first")
    end = ".lora_A.weight"
    layers = [key.removeprefix(f"{prefix}.").removesuffix(end) for key in tensors if key.endswith(end)]
    known = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    wrong = [name for name in layers if name not in known]
    if wrong or not layers:
        found = wrong[0] if wrong else "no key that ends in .lora_A.weight"
        raise BackdropError(
            f"These adapters are of another model: {found}.", f"Give a LoRA file whose keys begin with {prefix!r}."
        )
    wrapped = {}
    for name in layers:
        a, b = (tensors[f"{prefix}.{name}.lora_{part}.weight"] for part in "AB")
        base = known[name]
        if (b.shape[0], a.shape[1]) != base.weight.shape:
            raise BackdropError(
                f"The adapter of {name} is for a weight of {(b.shape[0], a.shape[1])}, not {tuple(base.weight.shape)}.",
                "Load it into the model it was trained on.",
            )
        module = LoRALinear(base, len(a), 1.0)
        if (alpha := tensors.get(f"{prefix}.{name}.alpha")) is not None:
            module.alpha = float(alpha)
        module.a.copy_(a)
        module.b.copy_(b)
        wrapped[name] = module
    for name, module in wrapped.items():
        _replace(model, name, module)
    train_adapters(model)
    return layers


def lora_files(model: nn.Module) -> dict[str, bytes]:
    """The adapters as the files of a folder that `peft.PeftModel.from_pretrained` opens."""
    return {
        "adapter_model.safetensors": save_tensors(save_lora(model)),
        "adapter_config.json": canonical_json(lora_config(model)),
    }


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{name} is a {type(module).__name__}, not a Linear")
    return module


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
