"""The optimiser of a training loop: AdamW, or Muon for the matrices inside the blocks and AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn

from training.muon import Muon
from training.presets.sections import OptimiserSection

BETAS = (0.9, 0.95)


def build(model: nn.Module, section: OptimiserSection) -> torch.optim.Optimizer:
    """Over the parameters of `model` that are trained; `section.optimiser` chooses."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if section.optimiser == "adamw":
        return torch.optim.AdamW(
            trained.values(), lr=section.learning_rate, weight_decay=section.weight_decay, betas=BETAS, fused=True
        )
    # What embeds, modulates and reads out stays with AdamW, as do all vectors.
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "blocks." in name]
    inside = {f"{name}.weight" for name in linear}
    groups = [
        {"params": [trained[name] for name in trained if name in inside], "muon": True},
        {"params": [trained[name] for name in trained if name not in inside], "muon": False},
    ]
    return Muon(
        [group for group in groups if group["params"]],
        lr=section.learning_rate,
        weight_decay=section.weight_decay,
        betas=BETAS,
    )
