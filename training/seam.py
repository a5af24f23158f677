"""Where a generated hole meets what was kept: which pixels those are, and how visible the seam is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def border_band(mask: Tensor, reach: int) -> Tensor:
    """The hole's pixels within `reach` of a kept one: mask (B, 1, H, W), 1 = to generate → (B, 1, H, W) of 0 and 1."""
    near_kept = F.max_pool2d(1 - mask, 2 * reach + 1, stride=1, padding=reach)
    return mask * near_kept


def composite(decoded: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """The hole (mask 1) of `decoded` in `original`, whose kept pixels stay exactly what they are; (B, 3, H, W)."""
    return torch.where(mask > 0.5, decoded, original)


def seam_error(decoded: Tensor, original: Tensor, mask: Tensor) -> float:
    """How far the steps across the border are from the true picture's, in levels of 255; 0 is no seam at all.

    decoded, original (B, 3, H, W) in [-1, 1]; mask (B, 1, H, W). Mean over the pairs of neighbours of which one is
    generated and one kept: |(their difference in the composite) - (their difference in the original)|. It is 0 also
    for a hole whose content is another, as long as it meets the kept pixels as the original did.
    """
    error = composite(decoded, original, mask) - original
    total, pairs = torch.zeros(()), torch.zeros(())
    for axis in (2, 3):
        across = mask.diff(dim=axis).abs()  # (B, 1, ·, ·), 1 where a pair straddles the border
        total = total + (error.diff(dim=axis).abs().mean(1, keepdim=True) * across).sum().cpu()
        pairs = pairs + across.sum().cpu()
    return float(127.5 * total / pairs.clamp(min=1))
