"""Autoencoder, adapters, averages, and models as bundles."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from infra.errors import BackdropError
from infra.object_store import open_store
from training.ema import Ema
from training.models.autoencoder import Autoencoder, AutoencoderConfig, reconstruction_loss
from training.models.dit import DiT, DiTConfig
from training.models.io import load_model, save_model
from training.models.lora import LoRALinear, add_lora, merge_lora, unmerge_lora


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_latents_have_the_side_over_the_factor(factor: int) -> None:
    model = Autoencoder(AutoencoderConfig(factor=factor, latent_channels=5, width=8, depth=1))
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    latent = model.encode(images)
    assert latent.shape == (2, 5, 32 // factor, 48 // factor)
    assert model.decode(latent).shape == images.shape


def test_latents_are_normalised_and_decoding_undoes_it() -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(width=8, depth=1))
    images = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = model.moments(images)[0]
        before = model.up(raw)
        model.normalise(raw)
        latent = model.encode(images)
        torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(8))
        torch.testing.assert_close(model.decode(latent), before, atol=1e-5, rtol=1e-4)


def test_the_autoencoder_learns_a_flat_picture() -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(width=8, depth=1))
    images = torch.full((4, 3, 16, 16), 0.5)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        terms = reconstruction_loss(model, images, torch.zeros(4, 8, 2, 2), 1e-6, 0.5)
        terms["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(terms["loss"].item())
    assert losses[-1] < 0.3 * losses[0]


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Sequential(nn.Linear(8, 4)))


def adapted() -> nn.Module:
    model = small()
    assert add_lora(model, rank=2, scale=0.5) == ["0", "2.0"]
    for module in model.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.b)
    return model


def test_adapters_change_nothing_at_first_and_alone_are_trained() -> None:
    model, x = small(), torch.randn(5, 6)
    before = model(x)
    add_lora(model, rank=2)
    assert torch.equal(model(x), before)
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"a", "b"}


def test_merging_keeps_the_function_and_restores_the_plain_layers() -> None:
    model, x = adapted(), torch.randn(5, 6)
    before = model(x)
    merge_lora(model)
    torch.testing.assert_close(model(x), before)
    assert set(model.state_dict()) == set(small().state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_unmerging_is_exact() -> None:
    model, original = adapted(), small()
    before = merge_lora(model)
    assert not torch.equal(model.get_parameter("0.weight"), original.get_parameter("0.weight"))
    unmerge_lora(model, before)
    for name, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_average_moves_towards_the_model_and_decay_0_equals_it() -> None:
    model = small()
    slow, none = Ema(model, 0.9), Ema(model, 0.0)
    start = copy.deepcopy(model.get_parameter("0.weight"))
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1.0)
    for _ in range(200):
        slow.update()
    none.update()
    assert torch.equal(none.module.get_parameter("0.weight"), model.get_parameter("0.weight"))
    torch.testing.assert_close(slow.module.get_parameter("0.weight"), start + 1)
    assert not any(parameter.requires_grad for parameter in slow.module.parameters())


def test_models_come_back_from_the_store_as_they_were(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    dit = DiT(DiTConfig(latent_channels=4, width=16, depth=1, heads=2, text_width=8, flow_map=True))
    autoencoder = Autoencoder(AutoencoderConfig(width=8, depth=1))
    for kind, model in (("dit", dit), ("autoencoder", autoencoder)):
        loaded = load_model(store, save_model(store, "models", kind, model, {}))
        assert loaded.config == model.config
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)


def test_a_changed_weight_file_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    bundle = save_model(store, "models", "autoencoder", Autoencoder(AutoencoderConfig(width=8, depth=1)), {})
    for key in list(store.list("models")):
        data = store.get(key)
        if len(data) > 1000:
            store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BackdropError):
        load_model(store, bundle)
