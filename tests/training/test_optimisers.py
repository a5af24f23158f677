"""Muon beside AdamW: what it does to a matrix, which weights take it, and that it is off unless asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from training.models.dit import DiT, DiTConfig
from training.muon import Muon, orthogonalised
from training.optimisers import build
from training.presets.sections import OptimiserSection


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (48, 12)])
def test_singular_values_come_close_to_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    g = u @ torch.diag(torch.logspace(0, -1.5, min(shape))) @ v
    found = orthogonalised(g)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    aligned = u.T @ found @ v.T  # diagonal in g's own directions
    assert (aligned - torch.diag(aligned.diagonal())).abs().max() < 1e-4
    assert (aligned.diagonal() > 0).all()


def dit() -> DiT:
    torch.manual_seed(0)
    return DiT(DiTConfig(latent_channels=4, width=32, depth=2, heads=2, text_width=8))


def test_the_matrices_inside_the_blocks_take_muon_and_all_else_adamw() -> None:
    model = dit()
    optimiser = build(model, OptimiserSection(optimiser="muon"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {bool(group["muon"]): {names[p] for p in group["params"]} for group in optimiser.param_groups}
    assert groups[True] == {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    }
    assert len(groups[True]) >= 8
    assert groups[True] | groups[False] == set(names.values())
    assert not groups[True] & groups[False]


def test_frozen_weights_are_in_no_optimiser() -> None:
    model = dit().requires_grad_(False)
    model.patch_out.weight.requires_grad_(True)
    for kind in ("adamw", "muon"):
        optimiser = build(model, OptimiserSection(optimiser=kind))
        assert [p for group in optimiser.param_groups for p in group["params"]] == [model.patch_out.weight]


def steps(optimiser: torch.optim.Optimizer, model: nn.Module, count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimiser.step()
    return [p.detach().clone() for p in model.parameters()]


def layers() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6))


def test_its_other_half_is_torch_s_adamw_bit_for_bit() -> None:
    ours, theirs = layers(), layers()
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.95), fused=True)
    mixed = Muon([{"params": list(ours.parameters())}], lr=0.01, weight_decay=0.1)
    for a, b in zip(steps(mixed, ours), steps(plain, theirs), strict=True):
        assert torch.equal(a, b)


def test_off_is_adamw() -> None:
    section = OptimiserSection(learning_rate=0.01, weight_decay=0.1)
    ours, theirs = layers(), layers()
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.95), fused=True)
    for a, b in zip(steps(build(ours, section), ours), steps(plain, theirs), strict=True):
        assert torch.equal(a, b)


def test_a_step_is_as_large_as_adamw_s_and_weight_decay_is_decoupled() -> None:
    weight = nn.Parameter(torch.ones(24, 40))
    optimiser = Muon([{"params": [weight], "muon": True}], lr=0.01, weight_decay=0.5)
    weight.grad = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    moved = weight.detach() - (1 - 0.01 * 0.5)
    assert 0.1 * 0.01 < moved.square().mean().sqrt() < 0.3 * 0.01  # 0.2 lr, as Liu et al. ask


def test_resuming_goes_on_bit_for_bit() -> None:
    def fresh() -> tuple[nn.Module, Muon]:
        model = layers()
        weights = [p for p in model.parameters() if p.ndim == 2]
        rest = [p for p in model.parameters() if p.ndim != 2]
        return model, Muon([{"params": weights, "muon": True}, {"params": rest}], lr=0.01, weight_decay=0.1)

    model, optimiser = fresh()
    steps(optimiser, model, 3)
    again, resumed = fresh()
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for a, b in zip(steps(optimiser, model, 2), steps(resumed, again, 2), strict=True):
        assert torch.equal(a, b)


def test_it_learns_a_badly_scaled_matrix_faster_than_adamw() -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(24, 24))
    target = u @ torch.diag(torch.linspace(1, 0.5, 24)) @ v
    x = torch.randn(256, 24) @ (v.T * torch.logspace(0, -2, 24)) @ v  # inputs of very unequal sizes
    left = {}
    for kind in ("muon", "adamw"):
        weight = nn.Parameter(torch.zeros(24, 24))
        optimiser = Muon([{"params": [weight], "muon": kind == "muon"}], lr=0.02, weight_decay=0.0)
        for _ in range(150):
            optimiser.zero_grad()
            (x @ (weight - target)).square().mean().backward()
            optimiser.step()
        left[kind] = (weight.detach() - target).square().mean()
    assert left["muon"] < 0.5 * left["adamw"]


def test_it_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2, 2\)"):
        Muon([{"params": [nn.Parameter(torch.zeros(3, 2, 2))], "muon": True}], lr=0.1, weight_decay=0.0)
