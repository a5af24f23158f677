"""The diffusion transformer that completes pictures.

A DiT (Peebles & Xie 2022) over latents, in the current style: rotary positions on the picture's own grid, QK-norm, a
gated MLP. What is kept of the picture enters as channels (masked latent, mask), text enters every block as extra keys
and values, time enters through adaLN-zero whose modulation is shared by all blocks and offset per block (PixArt-α).
Nothing depends on the values of its inputs, so it exports as one graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models import fused
from training.models.negative import NegativeText


@dataclass(frozen=True)
class DiTConfig:
    """Shape of the transformer. `flow_map` adds the student's inputs: step size, guidance, negative text."""

    latent_channels: int = 8
    width: int = 256
    depth: int = 6
    heads: int = 4
    patch: int = 2
    mlp_ratio: float = 3.0  # of a plain MLP with as many weights: the gated one is two thirds as wide
    text_width: int = 384
    flow_map: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be divisible by heads {self.heads}")
        if self.width // self.heads % 4:
            raise ValueError(f"width {self.width} over heads {self.heads} must be divisible by 4 for 2-D positions")

    @property
    def mlp_width(self) -> int:
        """Hidden units of the gated MLP, a multiple of 8."""
        return max(8, round(self.mlp_ratio * self.width * 2 / 3 / 8) * 8)


@dataclass(frozen=True)
class Route:
    """Token routing (TREAD, Krause et al. 2025): only the tokens `kept` go through blocks `start` to `stop` - 1.

    The others wait and join again before block `stop`. `kept` (B, n) int64 holds indices into the N tokens, row by row
    of the grid of patches; no index twice in a row.
    """

    start: int
    stop: int
    kept: Tensor

    def check(self, depth: int) -> None:
        if not 0 <= self.start < self.stop < depth:
            raise ValueError(f"a route from block {self.start} to {self.stop} does not fit {depth} blocks")

    def leave(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """The kept tokens (B, n, D) and their rotation (B, n, 1, d)."""
        rotation = rotation.expand(len(x), -1, -1, -1)  # (B, N, 1, d)
        return pick(x, self.kept), pick(rotation.flatten(2), self.kept).unflatten(2, (1, -1))

    def join(self, waiting: Tensor, x: Tensor) -> Tensor:
        """All tokens (B, N, D), the kept ones as they came out of the blocks."""
        return waiting.scatter(1, self.kept[:, :, None].expand_as(x), x)


@dataclass
class Tap:
    """Asks a forward for what block `block` puts out: `hidden` (B, N, D) afterwards, or (B, n, D) inside a route."""

    block: int
    hidden: Tensor | None = None


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
        self.negative_in = NegativeText(width) if config.flow_map else None
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_width) for _ in range(config.depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, config.latent_channels * cell)
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(_silent_where_missing)

    def reset_parameters(self) -> None:
        """Xavier everywhere, zeros where a residual branch or the output must start silent."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for silent in (self.modulation, self.final_modulation, self.patch_out):
            nn.init.zeros_(silent.weight)
        for embedder in (self.step_in, self.guidance_in):
            if embedder is not None:
                nn.init.zeros_(embedder.out.weight)
        if self.negative_in is not None:
            self.negative_in.silence()

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
        negative: Tensor | None = None,  # (B, M, E)  flow map only: text to lead away from
        negative_length: Tensor | None = None,  # (B,) int  0 = none, as where `negative` is left out
        route: Route | None = None,  # tokens that leave some blocks out
        tap: Tap | None = None,  # keeps one block's hidden state
    ) -> Tensor:  # (B, C, h, w)
        height, width = z.shape[-2:]
        words, valid = self.read(text.to(z.dtype), text_length)  # (B, L, D), (B, L)
        share = valid / valid.sum(1, keepdim=True)  # (B, L)  averages the words that are there
        pooled = torch.einsum("bl,bld->bd", share.to(words.dtype), words)  # (B, D)

        c = self.time_in(t) + self.text_pooled(pooled)  # (B, D)
        if self.step_in is not None and self.guidance_in is not None and self.negative_in is not None:
            if step is None or guidance is None:
                raise ValueError("a flow map needs step and guidance")
            c = c + self.step_in(step) + self.guidance_in(guidance)  # (B, D)
            if negative is not None and negative_length is not None:
                away, seen = self.read(negative.to(z.dtype), negative_length)  # (B, M, D), (B, M)
                strength = (guidance - 1) * (negative_length > 0).to(guidance.dtype)  # (B,)
                words, led = self.negative_in(words, away, seen, strength)  # (B, L, D), (B, D)
                c = c + led
        elif negative is not None:
            raise ValueError("a teacher's negative text is a forward of its own: give it as the text")
        c = F.silu(c)
        shared = self.modulation(c).unflatten(1, (6, -1))  # (B, 6, D)

        x = torch.cat([z, masked, mask], dim=1)  # (B, 2C+1, h, w)
        x = self.patch_in(patchify(x, self.config.patch))  # (B, N, D)  N = h·w / patch²
        rotation = rotations(
            height // self.config.patch, width // self.config.patch, self.head_width, x
        )  # (1, N, 1, d)
        waiting, everywhere = x, rotation
        if route is not None:
            route.check(len(self.blocks))
        for index, block in enumerate(self.blocks):
            if route is not None and index == route.stop:
                x, rotation = route.join(waiting, x), everywhere  # (B, N, D)
            if route is not None and index == route.start:
                waiting, (x, rotation) = x, route.leave(x, rotation)  # (B, n, D)
            x = block(x, words, valid, shared, rotation)  # (B, N, D)
            if tap is not None and index == tap.block:
                tap.hidden = x
        shift, scale = self.final_modulation(c).unflatten(1, (2, -1)).unbind(1)  # 2 × (B, D)
        x = self.patch_out(modulate(x, scale, shift))  # (B, N, C·patch²)
        return unpatchify(x, height, width, self.config.patch)  # (B, C, h, w)

    def read(self, text: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """text (B, L, E) of `length` (B,) → words (B, L, D) and which of them are there (B, L), at least one.

        Where the length is 0 every word is the learned null text, of which one is there.
        """
        dropped = (length == 0)[:, None, None]  # (B, 1, 1)
        valid = torch.arange(text.shape[1], device=text.device) < length.clamp(min=1)[:, None]  # (B, L)
        return self.text_in(torch.where(dropped, self.null_text, text)), valid

    @property
    def head_width(self) -> int:
        return self.config.width // self.config.heads


class Block(nn.Module):
    """Self-attention whose keys and values also hold the words, then a gated MLP; both behind adaLN-zero gates."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.text_kv = nn.Linear(width, 2 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, 2 * hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(width // heads))
        self.k_scale = nn.Parameter(torch.ones(width // heads))

    def forward(self, x: Tensor, words: Tensor, valid: Tensor, shared: Tensor, rotation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (shared + self.offset).unbind(1)  # 6 × (B, D)
        x = gated_add(x, gate1, self.attend(modulate(x, scale1, shift1), words, valid, rotation))  # (B, N, D)
        hidden = swiglu(self.mlp_in(modulate(x, scale2, shift2)))  # (B, N, M)
        return gated_add(x, gate2, self.mlp_out(hidden))  # (B, N, D)

    def attend(self, x: Tensor, words: Tensor, valid: Tensor, rotation: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, N, 3, H, d)
        text = self.text_kv(words).unflatten(2, (2, self.heads, -1))  # (B, L, 2, H, d)
        q, k, v = split_heads(qkv, text, self.q_scale, self.k_scale, rotation)  # (B, H, N, d), 2 × (B, H, N+L, d)
        out = attention(q, k, v, valid)  # (B, H, N, d)
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


def split_heads(
    qkv: Tensor, text: Tensor, q_scale: Tensor, k_scale: Tensor, rotation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (B, N, 3, H, d), text (B, L, 2, H, d) → q (B, H, N, d), k and v (B, H, N+L, d).

    QK-norm (Dehghani et al. 2023), then rotary positions; words are normalised, too, but have no place.
    """
    if fused.applies(qkv):
        heads: tuple[Tensor, Tensor, Tensor] = fused.Heads.apply(qkv, text, q_scale, k_scale, *rotation.chunk(2, dim=3))
        return heads
    q, k, v = qkv.unbind(2)  # 3 × (B, N, H, d)
    text_k, text_v = text.unbind(2)  # 2 × (B, L, H, d)
    q = rotate(F.layer_norm(q, q.shape[-1:], q_scale), rotation)
    k = rotate(F.layer_norm(k, k.shape[-1:], k_scale), rotation)
    text_k = F.layer_norm(text_k, k.shape[-1:], k_scale)
    k, v = torch.cat([k, text_k], dim=1), torch.cat([v, text_v], dim=1)  # 2 × (B, N+L, H, d)
    q, k, v = (part.to(v.dtype).transpose(1, 2) for part in (q, k, v))
    return q, k, v


def attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
    """q (B, H, N, d), k and v (B, H, N+L, d), valid (B, L) words → (B, H, N, d)."""
    if fused.applies(q):
        seen = valid.repeat_interleave(q.shape[1], 0)  # (B·H, L)
        out: Tensor = fused.Attention.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), seen)  # (B·H, N, d)
        return out.unflatten(0, q.shape[:2])
    seen = F.pad(valid, (q.shape[2], 0), value=True)[:, None, None, :]  # (B, 1, 1, N+L)
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (B, H, N, N+L)
    return scores.masked_fill(~seen, float("-inf")).softmax(3) @ v


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm without weights, then adaLN: x (B, N, D), scale and shift (B, D)."""
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift[:, None].to(x.dtype), x, 1 + scale[:, None].to(x.dtype))


def gated_add(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate · y: x and y (B, N, D), gate (B, D)."""
    return torch.addcmul(x, gate[:, None].to(x.dtype), y.to(x.dtype))


def swiglu(hidden: Tensor) -> Tensor:
    """(B, N, 2M) → (B, N, M): the first half, through SiLU, gates the second (Shazeer 2020)."""
    gate, value = hidden.chunk(2, dim=2)
    return F.silu(gate) * value


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, h, w) → (B, h·w / patch², C·patch²)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // patch) * (width // patch), channels * patch**2)


def unpatchify(x: Tensor, height: int, width: int, patch: int) -> Tensor:
    """(B, h·w / patch², C·patch²) → (B, C, h, w)."""
    x = x.unflatten(1, (height // patch, width // patch)).unflatten(3, (-1, patch, patch))
    return x.permute(0, 3, 1, 4, 2, 5).reshape(x.shape[0], x.shape[3], height, width)


def rotations(rows: int, columns: int, head_width: int, like: Tensor) -> Tensor:
    """Cosines and sines (1, rows·columns, 1, d) of a grid of any size, in the dtype of `like`.

    Rotary positions (Su et al. 2021) on two axes: the first half of the d/2 angles turns with the row, the second with
    the column.
    """
    quarter = head_width // 4
    exponent = torch.arange(quarter, device=like.device, dtype=torch.float32) / quarter
    frequency = torch.exp(-math.log(100.0) * exponent)  # (d/4,)
    y = torch.arange(rows, device=like.device, dtype=torch.float32)[:, None] * frequency  # (rows, d/4)
    x = torch.arange(columns, device=like.device, dtype=torch.float32)[:, None] * frequency  # (columns, d/4)
    y, x = y[:, None].expand(rows, columns, quarter), x[None].expand(rows, columns, quarter)
    angle = torch.cat([y, x], dim=2).reshape(1, rows * columns, 1, 2 * quarter)  # (1, N, 1, d/2)
    return torch.cat([angle.cos(), angle.sin()], dim=3).to(like.dtype)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + d/2}) of x (B, N, H, d) by its token's angle; `rotation` (1 or B, N, 1, d)."""
    cos, sin = rotation.chunk(2, dim=3)  # 2 × (·, N, 1, d/2)
    a, b = x.chunk(2, dim=3)  # 2 × (B, N, H, d/2)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=3)


def pick(x: Tensor, kept: Tensor) -> Tensor:
    """Rows `kept` (B, n) of x (B, N, D) → (B, n, D)."""
    return x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))


def as_flow_map(teacher: DiT) -> DiT:
    """A student that equals `teacher` bit for bit: the new embedders end in zeros."""
    student = DiT(DiTConfig(**{**vars(teacher.config), "flow_map": True}))
    student.load_state_dict(teacher.state_dict(), strict=False)
    return student


def _silent_where_missing(model: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A student that was distilled before there were negative texts has none of their weights: they stay silent."""
    own = model.negative_in
    if isinstance(own, NegativeText) and f"{prefix}time_in.out.weight" in weights:
        for name, value in own.state_dict().items():
            weights.setdefault(f"{prefix}negative_in.{name}", value)
