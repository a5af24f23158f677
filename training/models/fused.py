"""Attention with a backward pass of its own, for eager training on a CPU.

Each function equals the plain formula beside its use in `dit.py`. PyTorch's fused attention is slow backwards on a CPU
at these lengths, and the plain formula copies the scores for its mask and the heads for its products; here every result
is written once, where the next product wants it. Graphs (torch.export, torch.compile) and GPUs take the plain formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def applies(x: Tensor) -> bool:
    """Whether `x` is on a CPU, in eager mode, with gradients asked for."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Attention(torch.autograd.Function):
    """softmax(q kᵀ / √d, unseen words left out) v.

    q (G, N, d), k and v (G, M, d), contiguous, G = B·H; `seen` (G, L) bool tells which of the last L keys count.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        ctx.scale = q.shape[2] ** -0.5
        scores = torch.bmm(q * ctx.scale, k.transpose(1, 2))  # (G, N, M)
        scores[:, :, k.shape[1] - seen.shape[1] :].masked_fill_(~seen[:, None], float("-inf"))
        p = scores.softmax(2)  # (G, N, M)
        ctx.save_for_backward(q, k, v, p)
        return torch.bmm(p, v)  # (G, N, d)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p = ctx.saved_tensors
        grad = grads[0].contiguous()  # (G, N, d)
        dv = torch.bmm(p.transpose(1, 2), grad)  # (G, M, d)
        dp = torch.bmm(grad, v.transpose(1, 2))  # (G, N, M)
        ds = torch._softmax_backward_data(dp, p, 2, p.dtype)  # (G, N, M)  zero where unseen
        dq = torch.bmm(ds, k).mul_(ctx.scale)  # (G, N, d)
        dk = torch.bmm(ds.transpose(1, 2), q).mul_(ctx.scale)  # (G, M, d)
        return dq, dk, dv, None


class Heads(torch.autograd.Function):
    """Queries, keys and values as attention wants them: normalised, turned to their places, heads first.

    qkv (B, N, 3, H, d), words (B, L, 2, H, d), q_scale and k_scale (d,), cos and sin (1 or B, N, 1, d/2)
    → q (B, H, N, d), k and v (B, H, N+L, d).
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, words: Tensor, q_scale: Tensor, k_scale: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, _, heads, depth = qkv.shape
        q = qkv.new_empty(batch, heads, tokens, depth)
        k, v = (qkv.new_empty(batch, heads, tokens + words.shape[1], depth) for _ in range(2))
        place, word = slice(0, tokens), slice(tokens, None)
        q_rows, *q_moments = torch.native_layer_norm(qkv[:, :, 0], (depth,), q_scale, None, EPS)
        k_rows, *k_moments = torch.native_layer_norm(qkv[:, :, 1], (depth,), k_scale, None, EPS)
        word_rows, *word_moments = torch.native_layer_norm(words[:, :, 0], (depth,), k_scale, None, EPS)
        _turn(q_rows, cos, sin, q.transpose(1, 2))
        _turn(k_rows, cos, sin, k[:, :, place].transpose(1, 2))
        k[:, :, word] = word_rows.transpose(1, 2)
        v[:, :, place], v[:, :, word] = qkv[:, :, 2].transpose(1, 2), words[:, :, 1].transpose(1, 2)
        ctx.save_for_backward(qkv, words, q_scale, k_scale, cos, sin, *q_moments, *k_moments, *word_moments)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv, words, q_scale, k_scale, cos, sin, *moments = ctx.saved_tensors
        dq, dk, dv = (grad.transpose(1, 2) for grad in grads)  # (B, N, H, d), 2 × (B, N+L, H, d)
        place, word = slice(0, qkv.shape[1]), slice(qkv.shape[1], None)
        dqkv, dwords, rows = torch.empty_like(qkv), torch.empty_like(words), torch.empty_like(qkv[:, :, 0])
        _turn(dq, cos, -sin, rows)  # an orthogonal map's gradient goes back through its inverse
        dqkv[:, :, 0], dq_scale = _norm_backward(rows, qkv[:, :, 0], q_scale, *moments[:2])
        _turn(dk[:, place], cos, -sin, rows)
        dqkv[:, :, 1], dk_scale = _norm_backward(rows, qkv[:, :, 1], k_scale, *moments[2:4])
        dwords[:, :, 0], dword_scale = _norm_backward(dk[:, word], words[:, :, 0], k_scale, *moments[4:])
        dqkv[:, :, 2], dwords[:, :, 1] = dv[:, place], dv[:, word]
        return dqkv, dwords, dq_scale, dk_scale + dword_scale, None, None


EPS = 1e-5  # F.layer_norm's


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write x (B, N, H, d), each pair (x_i, x_{i + d/2}) turned, into `out` of the same shape."""
    low, high = x.chunk(2, dim=3)  # 2 × (B, N, H, d/2)
    out_low, out_high = out.chunk(2, dim=3)
    torch.mul(low, cos, out=out_low).addcmul_(high, sin, value=-1)
    torch.mul(low, sin, out=out_high).addcmul_(high, cos)


def _norm_backward(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x (B, ·, H, d) and of the weight (d,)."""
    dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), x.contiguous(), x.shape[-1:], mean, rstd, weight, None, [True, True, False]
    )
    return dx, dweight
