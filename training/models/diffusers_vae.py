"""diffusers' AutoencoderKL (Rombach et al. 2022), read from its folder without diffusers and used like our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from infra.errors import BackdropError
from training.models.autoencoder import Autoencoder, AutoencoderConfig

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
EPSILON = 1e-6
PARTS = {"encoder.": "down.0.", "quant_conv.": "down.1.", "post_quant_conv.": "up.0.", "decoder.": "up.1."}
"""Where diffusers' weights go."""
OLD_NAMES = {"query.": "to_q.", "key.": "to_k.", "value.": "to_v.", "proj_attn.": "to_out.0."}
"""The attention's names before diffusers 0.12, which published autoencoders still have."""
ONLY = {"down_block_types": {"DownEncoderBlock2D"}, "up_block_types": {"UpDecoderBlock2D"}, "act_fn": {"silu"}}
"""What is built here of what a configuration may ask for; every published AutoencoderKL asks for these."""


@dataclass(frozen=True)
class DiffusersConfig(AutoencoderConfig):
    """`width` and `depth` are of the first block: `widths` has every block's, finest first."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    groups: int = 32
    attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON has lists
        super().__post_init__()


class DiffusersAutoencoder(Autoencoder):
    """Latents as diffusers' pipelines scale them: (z - shift) · scale."""

    config: DiffusersConfig

    def networks(self, config: AutoencoderConfig) -> tuple[nn.Sequential, nn.Sequential]:
        assert isinstance(config, DiffusersConfig)
        channels = config.latent_channels
        quant = nn.Conv2d(2 * channels, 2 * channels, 1) if config.quant_conv else nn.Identity()
        post_quant = nn.Conv2d(channels, channels, 1) if config.post_quant_conv else nn.Identity()
        return nn.Sequential(_Encoder(config), quant), nn.Sequential(post_quant, _Decoder(config))


def load_diffusers(folder: str | Path) -> DiffusersAutoencoder:
    """The AutoencoderKL that diffusers' `save_pretrained` wrote to `folder`, or to `vae` below it; float32.

    Raises BackdropError for a folder that holds none, an autoencoder of another kind, or weights that do not fit.
    """
    folder = Path(folder)
    if (folder / "vae" / "config.json").is_file():
        folder = folder / "vae"
    remedy = "Give the folder that diffusers' AutoencoderKL.save_pretrained wrote, with config.json and safetensors."
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None or not (folder / "config.json").is_file():
        raise BackdropError(f"{folder} holds no config.json with {WEIGHTS[0]} beside it.", remedy)
    try:
        values = json.loads((folder / "config.json").read_text())
        model = DiffusersAutoencoder(read_config(values))
        tensors = {rename(name): tensor.float() for name, tensor in load_file(path).items()}
        model.load_state_dict({**tensors, **normalisation(values)})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BackdropError(f"{folder} holds no AutoencoderKL that can be read: {error}", remedy) from error
    return model.eval()


def read_config(values: Mapping[str, Any]) -> DiffusersConfig:
    """diffusers' config.json → ours. Raises ValueError for what is not built here."""
    for key, known in ONLY.items():
        asked = values.get(key, sorted(known))
        others = set([asked] if isinstance(asked, str) else asked) - known
        if others:
            raise ValueError(f"{key} has {', '.join(sorted(others))}; only {', '.join(sorted(known))} is supported")
    widths = tuple(values["block_out_channels"])
    return DiffusersConfig(
        factor=2 ** (len(widths) - 1),
        latent_channels=values["latent_channels"],
        width=widths[0],
        depth=values.get("layers_per_block", 1),
        widths=widths,
        groups=values.get("norm_num_groups", 32),
        attention=values.get("mid_block_add_attention", True),
        quant_conv=values.get("use_quant_conv", True),
        post_quant_conv=values.get("use_post_quant_conv", True),
    )


def rename(name: str) -> str:
    """diffusers' name of a weight → ours. Raises ValueError for one that no AutoencoderKL has."""
    part = next((part for part in PARTS if name.startswith(part)), None)
    if part is None:
        raise ValueError(f"{name} is no weight of an AutoencoderKL")
    rest = name.removeprefix(part)
    for old, new in OLD_NAMES.items():
        if ".attentions." in rest:
            rest = rest.replace(f".{old}", f".{new}")
    return PARTS[part] + rest


def normalisation(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """mean and std (1, C, 1, 1) that make our latents those of diffusers' pipelines."""
    channels = values["latent_channels"]
    mean = values.get("latents_mean") or [values.get("shift_factor") or 0.0] * channels
    std = values.get("latents_std") or [1.0] * channels
    scale = values.get("scaling_factor") or 0.18215
    return {
        "mean": torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1),
        "std": torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1) / scale,
    }


class _Encoder(nn.Module):  # the modules below have diffusers' names, so that its weights find their places
    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        before = (config.widths[0], *config.widths)
        last = len(config.widths) - 1
        self.conv_in = nn.Conv2d(3, config.widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            _Block(before[i], width, config.depth, config.groups, "downsamplers" if i < last else None)
            for i, width in enumerate(config.widths)
        )
        self.mid_block = _Middle(config)
        self.conv_norm_out = nn.GroupNorm(config.groups, config.widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(config.widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) → (B, 2C, H/f, W/f)
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class _Decoder(nn.Module):
    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        before = (widths[0], *widths)
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _Middle(config)
        self.up_blocks = nn.ModuleList(
            _Block(before[i], width, config.depth + 1, config.groups, "upsamplers" if i < last else None)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) → (B, 3, f·h, f·w)
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class _Block(nn.Module):
    """Residual blocks, and after them the next resolution unless it is the last."""

    def __init__(self, channels_in: int, channels_out: int, depth: int, groups: int, resize: str | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            _Resnet(channels_in if index == 0 else channels_out, channels_out, groups) for index in range(depth)
        )
        self.downsamplers = nn.ModuleList([_Down(channels_out)] if resize == "downsamplers" else [])
        self.upsamplers = nn.ModuleList([_Up(channels_out)] if resize == "upsamplers" else [])

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class _Middle(nn.Module):
    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        width, groups = config.widths[-1], config.groups
        self.resnets = nn.ModuleList([_Resnet(width, width, groups), _Resnet(width, width, groups)])
        self.attentions = nn.ModuleList([_Attention(width, groups)] if config.attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class _Resnet(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, EPSILON)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels_out, EPSILON)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return inner + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _Attention(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, EPSILON)
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:  # (B, D, h, w) → the same; one head over all cells
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # (B, 1, h·w, D)
        seen = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](seen)[:, 0].transpose(1, 2).reshape(x.shape)


class _Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # at the right and the bottom only


class _Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
