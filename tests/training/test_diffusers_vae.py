"""diffusers' AutoencoderKL from its folder: the same numbers as diffusers gives, old names, and what is refused."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import BackdropError
from infra.object_store import open_store
from training.models.diffusers_vae import PARTS, DiffusersAutoencoder, load_diffusers, read_config
from training.models.io import load_model, save_model

CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "out_channels": 3,
    "scaling_factor": 0.25,
    "shift_factor": 0.125,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}


LATENT = [0.534279, -0.273693, -0.175532, 0.407087]
DECODED = [-0.00842, 3.025352, 0.380526]
"""What diffusers 0.35.1 makes of the configuration, the weights and the picture below."""


def weights(config: dict[str, Any]) -> dict[str, Tensor]:
    """Under diffusers' names; each by a formula of its name, so that the numbers below can be made again."""
    tensors = {}
    for name, like in DiffusersAutoencoder(read_config(config)).state_dict().items():
        for theirs, ours in PARTS.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                scale = max(1, like[0].numel()) ** -0.5
                tensors[name] = torch.randn(like.shape, generator=generator) * scale + (like.ndim == 1)
                break
    return tensors


def write(folder: Path, config: dict[str, Any] = CONFIG, tensors: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights(config) if tensors is None else tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


def picture() -> Tensor:
    ramp = torch.linspace(-1, 1, 3 * 16 * 24)
    return (7 * ramp).sin().view(1, 3, 16, 24)


@torch.no_grad()
def test_the_numbers_are_those_of_diffusers(tmp_path: Path) -> None:
    """Made with diffusers 0.35.1: (encode(x).latent_dist.mode() - shift) · scale, and decode of it scaled back."""
    model = load_diffusers(write(tmp_path))
    latent = model.encode(picture())
    decoded = model.decode(latent)
    assert latent.shape == (1, 4, 4, 6)
    torch.testing.assert_close(latent[0, :, 1, 2], torch.tensor(LATENT), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decoded[0, :, 5, 7], torch.tensor(DECODED), atol=1e-4, rtol=1e-4)


def test_the_names_of_old_autoencoders_are_read(tmp_path: Path) -> None:
    tensors = weights(CONFIG)
    old = {}
    for name, tensor in tensors.items():
        for new, before in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        old[name] = tensor
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in old
    ours = load_diffusers(write(tmp_path / "new"))
    theirs = load_diffusers(write(tmp_path / "old" / "vae", tensors=old).parent)  # a pipeline's folder will do
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_half_precision_and_no_quant_convolutions(tmp_path: Path) -> None:
    config = {**CONFIG, "use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}
    tensors = {name: tensor.half() for name, tensor in weights(config).items()}
    assert not any("quant_conv" in name or "attentions" in name for name in tensors)
    model = load_diffusers(write(tmp_path, config, tensors))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.decode(model.encode(picture())).isfinite().all()


def test_it_is_a_bundle_like_any_other(tmp_path: Path) -> None:
    model = load_diffusers(write(tmp_path / "vae"))
    store = open_store((tmp_path / "store").as_uri())
    loaded = load_model(store, save_model(store, "models", "diffusers_autoencoder", model, {}))
    assert (loaded.config.factor, loaded.config.latent_channels) == (4, 4)
    assert loaded.config == model.config
    assert torch.equal(loaded.encode(picture()), model.encode(picture()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "AttnDownEncoderBlock2D"),
        ({"act_fn": "gelu"}, "gelu"),
        ({"block_out_channels": [8]}, "factor 1"),
        ({"latent_channels": 5}, "size mismatch"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = write(tmp_path, {**CONFIG, **change}, weights(CONFIG))
    with pytest.raises(BackdropError, match=said):
        load_diffusers(folder)


def test_a_weight_of_another_model_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, CONFIG, {**weights(CONFIG), "loss.discriminator.bias": torch.zeros(1)})
    with pytest.raises(BackdropError, match=r"loss\.discriminator\.bias is no weight of an AutoencoderKL"):
        load_diffusers(folder)


def test_a_folder_without_safetensors_or_with_a_cut_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="safetensors"):
        load_diffusers(tmp_path)
    path = write(tmp_path) / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BackdropError, match="no AutoencoderKL"):
        load_diffusers(tmp_path)
