"""Muon (Jordan et al. 2024; Liu et al. 2025, "Muon is scalable for LLM training"): orthogonal steps for 2-D weights.

The momentum of a weight matrix is replaced by the nearest matrix with equal singular values, found by a Newton–Schulz
iteration, so that rare directions learn as fast as common ones. All other parameters take AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

MATCH_ADAM = 0.2
"""A Muon step has this root mean square per weight at learning rate 1, about AdamW's (Liu et al. 2025, eq. 4)."""
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix to g (m, n), roughly: singular values end in about [0.7, 1.2].

    A quintic Newton–Schulz iteration, X ← aX + (b A + c A²) X with A = X Xᵀ, on the side that is shorter.
    """
    a, b, c = _QUINTIC
    wide = g.shape[0] <= g.shape[1]
    x = g if wide else g.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


def _on_whole(function: Callable[[Tensor], Tensor], matrix: Tensor) -> Tensor:
    """function(matrix), also of a matrix that is sharded over ranks: each gathers it and keeps its part."""
    if not isinstance(matrix, DTensor):
        return function(matrix)
    found = function(matrix.full_tensor())
    return distribute_tensor(found, matrix.device_mesh, matrix.placements, src_data_rank=None)


class Muon(torch.optim.Optimizer):
    """Muon for the groups with `muon=True`, AdamW for the others; weight decay is decoupled in both.

    Group options: lr, weight_decay, betas (AdamW), momentum (Muon, Nesterov's), muon.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "momentum": momentum, "muon": False}
        super().__init__(groups, defaults)
        for group in self.param_groups:
            flat = [tuple(p.shape) for p in group["params"] if group["muon"] and p.ndim != 2]
            if flat:
                raise ValueError(f"Muon is for matrices: a group has a parameter of shape {flat[0]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adamw)(parameters, group)
        return loss

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = _on_whole(orthogonalised, p.grad.lerp(momentum, group["momentum"]))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * MATCH_ADAM * max(p.shape) ** 0.5)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        states = [self.state[p] for p in parameters]
        if parameters:
            adamw(
                parameters,
                [p.grad for p in parameters if p.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=1e-8,
                maximize=False,
            )
