"""Adapters: off at first, merged and unmerged exactly, saved and loaded, in the layout that others read."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from infra.errors import BackdropError
from training.models.dit import DiT, DiTConfig
from training.models.lora import (
    LoRALinear,
    adapters,
    add_lora,
    base_weights,
    load_lora,
    lora_files,
    merge_lora,
    save_lora,
    train_adapters,
    unmerge_lora,
)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Sequential(nn.Linear(8, 4)))


def adapted(scale: float = 0.3) -> nn.Module:
    model = small()
    assert add_lora(model, rank=7, scale=scale) == ["0", "2.0"]
    for module in adapters(model).values():
        nn.init.normal_(module.b)
    return model


def test_adapters_change_nothing_at_first_and_alone_are_trained() -> None:
    model, x = small(), torch.randn(5, 6)
    before = model(x)
    add_lora(model, rank=2)
    assert torch.equal(model(x), before)
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"a", "b"}


def test_every_linear_layer_of_the_transformer_has_one() -> None:
    model = DiT(DiTConfig(latent_channels=4, width=16, depth=2, heads=2, text_width=8))
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert add_lora(model, rank=2) == linear
    assert {"patch_in", "blocks.0.qkv", "blocks.1.mlp_out", "patch_out", "modulation"} <= set(linear)


def test_merging_keeps_the_function_and_restores_the_plain_layers() -> None:
    model, x = adapted(), torch.randn(5, 6)
    before = model(x)
    weight = model.get_submodule("0")
    assert isinstance(weight, LoRALinear)
    expected = weight.base.weight + weight.scale * (weight.b @ weight.a)
    merge_lora(model)
    assert torch.equal(model.get_parameter("0.weight"), expected)
    torch.testing.assert_close(model(x), before)
    assert set(model.state_dict()) == set(small().state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_unmerging_is_exact() -> None:
    model, original = adapted(), small()
    before = base_weights(model)
    merge_lora(model)
    assert not torch.equal(model.get_parameter("0.weight"), original.get_parameter("0.weight"))
    unmerge_lora(model, before)
    for name, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2 / 3])
def test_saved_adapters_load_and_merge_to_the_same_bits(scale: float) -> None:
    trained, fresh, x = adapted(scale), small(), torch.randn(5, 6)
    assert load_lora(fresh, save_lora(trained)) == ["0", "2.0"]
    assert torch.equal(fresh(x), trained(x))
    assert {name for name, p in fresh.named_parameters() if p.requires_grad} == {"0.a", "0.b", "2.0.a", "2.0.b"}
    merge_lora(fresh)
    merge_lora(trained)
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)


def test_the_layout_is_the_common_one() -> None:
    tensors = save_lora(adapted(), prefix="transformer")
    assert set(tensors) == {
        f"transformer.{layer}.{part}" for layer in ("0", "2.0") for part in ("lora_A.weight", "lora_B.weight", "alpha")
    }
    assert tensors["transformer.0.lora_A.weight"].shape == (7, 6)
    assert tensors["transformer.0.lora_B.weight"].shape == (8, 7)
    assert float(tensors["transformer.0.alpha"]) == pytest.approx(2.1)  # scale · rank


def folder_of(model: nn.Module, folder: Path) -> Path:
    for name, data in lora_files(model).items():
        (folder / name).write_bytes(data)
    return folder


def test_the_files_hold_the_adapters_alone(tmp_path: Path) -> None:
    trained = adapted()
    folder = folder_of(trained, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["target_modules"]) == ("LORA", 7, ["0", "2.0"])
    assert config["lora_alpha"] == pytest.approx(2.1)
    fresh, x = small(), torch.randn(5, 6)
    load_lora(fresh, load_file(folder / "adapter_model.safetensors"))
    assert torch.equal(fresh(x), trained(x))


def test_peft_reads_them(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    trained, x = adapted(), torch.randn(5, 6)
    theirs = peft.PeftModel.from_pretrained(small(), folder_of(trained, tmp_path))
    torch.testing.assert_close(theirs(x), trained(x))


def test_adapters_of_another_model_are_refused() -> None:
    tensors = save_lora(adapted())
    with pytest.raises(BackdropError, match="another model: 0"):
        load_lora(nn.Sequential(nn.GELU()), tensors)
    with pytest.raises(BackdropError, match="no key"):
        load_lora(small(), {"unrelated": torch.zeros(1)})
    other = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Sequential(nn.Linear(9, 4)))
    with pytest.raises(BackdropError, match=r"\(8, 6\), not \(9, 6\)"):
        load_lora(other, tensors)
    assert not adapters(other)  # refused as a whole


def test_adapters_are_not_stacked() -> None:
    with pytest.raises(ValueError, match="adapters already"):
        add_lora(adapted(), rank=2)
    with pytest.raises(ValueError, match="adapters already"):
        load_lora(adapted(), save_lora(adapted()))


def test_a_frozen_copy_can_be_trained_on() -> None:
    copied = copy.deepcopy(adapted()).requires_grad_(False)
    trained = {name for name, p in train_adapters(copied).named_parameters() if p.requires_grad}
    assert trained == {"0.a", "0.b", "2.0.a", "2.0.b"}
