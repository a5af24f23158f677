"""The diffusion transformer that completes pictures.

A DiT (Peebles & Xie 2022) over latents. What is kept of the picture enters as channels (masked latent, mask), text
enters every block as extra keys and values, time enters through adaLN-zero whose modulation is shared by all blocks
and offset per block (PixArt-α). Nothing depends on the values of its inputs, so it exports as one graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the transformer. `flow_map` adds the student's step-size and guidance inputs."""

    latent_channels: int = 8
    width: int = 256
    depth: int = 6
    heads: int = 4
    patch: int = 2
    mlp_ratio: float = 3.0
    text_width: int = 384
    flow_map: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be divisible by heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} must be divisible by 4 for 2-D positions")


class DiT(nn.Module):
    """Velocity v(z_t, t | kept picture, text), or the average velocity over a step when `flow_map`."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, cell = config.width, config.patch**2
        self.patch_in = nn.Linear((2 * config.latent_channels + 1) * cell, width)
        self.text_in = nn.Sequential(nn.LayerNorm(config.text_width), nn.Linear(config.text_width, width))
        self.text_pooled = nn.Linear(width, width)
        self.null_text = nn.Parameter(torch.randn(config.text_width) * 0.3)
        self.time_in = ScalarEmbedder(width)
        self.step_in = ScalarEmbedder(width) if config.flow_map else None
        self.guidance_in = ScalarEmbedder(width) if config.flow_map else None
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, config.latent_channels * cell)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier everywhere, zeros where a residual branch or the output must start silent."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for silent in (self.modulation, self.final_modulation, self.patch_out):
            nn.init.zeros_(silent.weight)
        for embedder in (self.step_in, self.guidance_in):
            if embedder is not None:
                nn.init.zeros_(embedder.out.weight)

    def forward(
        self,
        z: Tensor,  # (B, C, h, w)  noisy latent
        t: Tensor,  # (B,)          0 = data, 1 = noise
        masked: Tensor,  # (B, C, h, w)  latent of the picture with its hole greyed
        mask: Tensor,  # (B, 1, h, w)  1 = to generate
        text: Tensor,  # (B, L, E)
        text_length: Tensor,  # (B,) int      0 = the learned null text
        step: Tensor | None = None,  # (B,)  flow map only: length of the step
        guidance: Tensor | None = None,  # (B,)  flow map only: guidance baked in
    ) -> Tensor:  # (B, C, h, w)
        height, width = z.shape[-2:]
        dropped = (text_length == 0)[:, None, None]  # (B, 1, 1)
        valid = torch.arange(text.shape[1], device=z.device) < text_length.clamp(min=1)[:, None]  # (B, L)
        words = self.text_in(torch.where(dropped, self.null_text, text.to(z.dtype)))  # (B, L, D)
        share = valid / valid.sum(1, keepdim=True)  # (B, L)  averages the words that are there
        pooled = torch.einsum("bl,bld->bd", share.to(words.dtype), words)  # (B, D)

        c = self.time_in(t) + self.text_pooled(pooled)  # (B, D)
        if self.step_in is not None and self.guidance_in is not None:
            if step is None or guidance is None:
                raise ValueError("a flow map needs step and guidance")
            c = c + self.step_in(step) + self.guidance_in(guidance)  # (B, D)
        c = F.silu(c)
        shared = self.modulation(c).unflatten(1, (6, -1))  # (B, 6, D)

        x = torch.cat([z, masked, mask], dim=1)  # (B, 2C+1, h, w)
        x = self.patch_in(patchify(x, self.config.patch))  # (B, N, D)  N = h·w / patch²
        x = x + positions(height // self.config.patch, width // self.config.patch, x)  # (B, N, D)
        keys = F.pad(valid, (x.shape[1], 0), value=True)[:, None, None, :]  # (B, 1, 1, N+L)
        for block in self.blocks:
            x = block(x, words, shared, keys)  # (B, N, D)
        shift, scale = self.final_modulation(c).unflatten(1, (2, 1, -1)).unbind(1)  # 2 × (B, 1, D)
        x = self.patch_out(norm(x) * (1 + scale) + shift)  # (B, N, C·patch²)
        return unpatchify(x, height, width, self.config.patch)  # (B, C, h, w)


class Block(nn.Module):
    """Self-attention whose keys and values also hold the words, then an MLP; both behind adaLN-zero gates."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.text_kv = nn.Linear(width, 2 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, int(mlp_ratio * width))
        self.mlp_out = nn.Linear(int(mlp_ratio * width), width)
        self.q_scale = nn.Parameter(torch.ones(width // heads))
        self.k_scale = nn.Parameter(torch.ones(width // heads))

    def forward(self, x: Tensor, words: Tensor, shared: Tensor, keys: Tensor) -> Tensor:
        m = (shared + self.offset).to(x.dtype)[:, :, None]  # (B, 6, 1, D)
        shift1, scale1, gate1, shift2, scale2, gate2 = m.unbind(1)  # 6 × (B, 1, D)
        x = x + gate1 * self.attend(norm(x) * (1 + scale1) + shift1, words, keys)  # (B, N, D)
        hidden = F.gelu(self.mlp_in(norm(x) * (1 + scale2) + shift2), approximate="tanh")  # (B, N, M)
        return x + gate2 * self.mlp_out(hidden)  # (B, N, D)

    def attend(self, x: Tensor, words: Tensor, keys: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)  # 3 × (B, N, H, d)
        text_k, text_v = self.text_kv(words).unflatten(2, (2, self.heads, -1)).unbind(2)  # 2 × (B, L, H, d)
        q = F.layer_norm(q, q.shape[-1:], self.q_scale)  # (B, N, H, d)  QK-norm, Dehghani et al. 2023
        k = F.layer_norm(torch.cat([k, text_k], dim=1), q.shape[-1:], self.k_scale)  # (B, N+L, H, d)
        v = torch.cat([v, text_v], dim=1)  # (B, N+L, H, d)
        q, k, v = (part.to(v.dtype).transpose(1, 2) for part in (q, k, v))  # (B, H, ·, d)
        out = attention(q, k, v, keys)  # (B, H, N, d)
        return self.attention_out(out.transpose(1, 2).flatten(2))  # (B, N, D)


class ScalarEmbedder(nn.Module):
    """A number in [0, ~10] → sines and cosines → MLP. The sines stay in fp32: bf16 loses them (facts: 1.7e-2)."""

    def __init__(self, width: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(2 * frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:  # (B,) → (B, D)
        exponent = torch.arange(self.frequencies, device=value.device, dtype=torch.float32) / self.frequencies
        angle = 1000.0 * value.float()[:, None] * torch.exp(-math.log(10_000.0) * exponent)  # (B, F)
        return self.out(F.silu(self.hidden(torch.cat([angle.cos(), angle.sin()], dim=1))))


def attention(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """q (B, H, N, d), k and v (B, H, M, d), keys (B, 1, 1, M) bool → (B, H, N, d)."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
    # The fused kernel's backward is slow on a CPU at these lengths: two products make a step 1.4 times faster.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (B, H, N, M)
    return scores.masked_fill(~keys, float("-inf")).softmax(3) @ v


def norm(x: Tensor) -> Tensor:
    """LayerNorm without weights over the last axis."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, h, w) → (B, h·w / patch², C·patch²)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // patch) * (width // patch), channels * patch**2)


def unpatchify(x: Tensor, height: int, width: int, patch: int) -> Tensor:
    """(B, h·w / patch², C·patch²) → (B, C, h, w)."""
    x = x.unflatten(1, (height // patch, width // patch)).unflatten(3, (-1, patch, patch))
    return x.permute(0, 3, 1, 4, 2, 5).reshape(x.shape[0], -1, height, width)


def positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """Sine-cosine positions of a grid of any size, (rows·columns, D) in the dtype of `like` (…, D)."""
    quarter = like.shape[-1] // 4
    exponent = torch.arange(quarter, device=like.device, dtype=torch.float32) / quarter
    frequency = torch.exp(-math.log(100.0) * exponent)  # (D/4,)
    y = torch.arange(rows, device=like.device, dtype=torch.float32)[:, None] * frequency  # (rows, D/4)
    x = torch.arange(columns, device=like.device, dtype=torch.float32)[:, None] * frequency  # (columns, D/4)
    y = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(rows, columns, 2 * quarter)
    x = torch.cat([x.sin(), x.cos()], dim=1)[None].expand(rows, columns, 2 * quarter)
    return torch.cat([y, x], dim=2).reshape(rows * columns, 4 * quarter).to(like.dtype)


def as_flow_map(teacher: DiT) -> DiT:
    """A student that equals `teacher` bit for bit: the new embedders end in zeros."""
    student = DiT(DiTConfig(**{**vars(teacher.config), "flow_map": True}))
    student.load_state_dict(teacher.state_dict(), strict=False)
    return student
