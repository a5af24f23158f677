"""Vector quantisation (van den Oord et al., "Neural discrete representation learning", 2017): latents snap to codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COMMITMENT = 0.25
"""β of the paper's equation 3: how much slower a latent moves to its code than the code to its latents."""


class Codebook(nn.Module):
    """K codes of C numbers; each cell of a latent becomes the nearest one."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(codes, channels))  # (K, C)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) → the same, of codes."""
        return F.embedding(self.nearest(latent), self.codes).permute(0, 3, 1, 2)

    def nearest(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) → int64 (B, h, w): argmin ‖z - e‖² = argmax z·e - ½‖e‖²."""
        codes = self.codes.detach().float()
        cells = latent.detach().float().permute(0, 2, 3, 1)  # (B, h, w, C)
        # Neighbouring codes differ by less than autocast's bfloat16 can tell.
        with torch.autocast(latent.device.type, enabled=False):
            score = cells @ codes.T - codes.square().sum(1) / 2  # (B, h, w, K)
        return score.argmax(-1)

    def quantise(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Training's view: codes (B, C, h, w) whose gradient goes straight to the latent, and the codebook's loss."""
        codes = self(latent)
        loss = F.mse_loss(codes, latent.detach()) + COMMITMENT * F.mse_loss(latent, codes.detach())
        return latent + (codes - latent).detach(), loss

    @torch.no_grad()
    def start(self, latents: Tensor, seed: int) -> None:
        """Begin at latents (N, C, h, w) drawn from the data: codes far from all of them would never be used."""
        cells = latents.float().permute(0, 2, 3, 1).flatten(0, 2)  # (N·h·w, C)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(cells), generator=generator)
        self.codes.copy_(cells[order[torch.arange(len(self.codes)) % len(cells)].to(cells.device)])
