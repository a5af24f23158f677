"""What a student does with a negative text: one small attention before the trunk, so that a forward costs as before."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NegativeText(nn.Module):
    """Words that look at the words to lead away from, and what these say on average. Silent at first.

    Guidance pushes (w - 1) times the difference of two texts, so both outputs carry that factor: nothing is led away
    from at w = 1, as with a teacher.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.asked = nn.Linear(width, width, bias=False)
        self.seen = nn.Linear(width, 2 * width, bias=False)
        self.words_out = nn.Linear(width, width, bias=False)
        self.pooled_out = nn.Linear(width, width, bias=False)

    def silence(self) -> None:
        """Zeros where the outputs join the text's own."""
        nn.init.zeros_(self.words_out.weight)
        nn.init.zeros_(self.pooled_out.weight)

    def forward(
        self,
        words: Tensor,  # (B, L, D)
        away: Tensor,  # (B, M, D)
        valid: Tensor,  # (B, M) bool  at least one of a row
        strength: Tensor,  # (B,)        w - 1, or 0 where there is no negative text
    ) -> tuple[Tensor, Tensor]:  # the words (B, L, D), and what is added to the time (B, D)
        key, value = self.seen(away).chunk(2, dim=2)  # 2 × (B, M, D)
        scores = (self.asked(words) * words.shape[2] ** -0.5) @ key.transpose(1, 2)  # (B, L, M)
        share = scores.masked_fill(~valid[:, None], float("-inf")).softmax(2)
        even = valid / valid.sum(1, keepdim=True)  # (B, M)
        pooled = torch.einsum("bm,bmd->bd", even.to(away.dtype), away)  # (B, D)
        strength = strength[:, None].to(words.dtype)
        led = self.words_out(share.to(value.dtype) @ value) * strength[:, None]  # (B, L, D)
        return words + led, self.pooled_out(pooled) * strength
