"""Averages, and models as bundles."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from infra.errors import BackdropError
from infra.object_store import open_store
from training.ema import Ema
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.dit import DiT, DiTConfig
from training.models.io import load_model, save_model


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Sequential(nn.Linear(8, 4)))


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


def test_an_average_that_moves_at_every_second_step_is_where_one_of_every_step_is() -> None:
    model = small()
    each, second = Ema(model, 0.99), Ema(model, 0.99, every=2)
    weight = model.get_parameter("0.weight")
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    second.update()
    assert torch.equal(second.module.get_parameter("0.weight"), start)
    second.update()
    assert not torch.equal(second.module.get_parameter("0.weight"), start)
    second.updates = each.updates = 2000  # beyond the warm-up
    for ema in (each, second):
        ema.module.get_parameter("0.weight").copy_(start)
        for _ in range(40):
            ema.update()
    torch.testing.assert_close(each.module.get_parameter("0.weight"), second.module.get_parameter("0.weight"))


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
