"""TREAD (Krause et al. 2025): in training, a share of the tokens skips the middle blocks and comes back after them.

Those blocks cost less, and the tokens that return carry early features to late ones. Nothing is routed at inference,
and the model has the same weights.
"""

from __future__ import annotations

from training.draws import Draws
from training.models.dit import DiTConfig, Route
from training.presets.sections import TreadSection


def draw_route(section: TreadSection, draws: Draws, tokens: int) -> Route:
    """For each sample a random choice of its own: `section.share` of the tokens skips blocks start … stop - 1."""
    kept = max(1, tokens - round(section.share * tokens))
    order = draws.uniform("route", tokens).argsort(dim=1, stable=True)  # (B, N)
    return Route(section.start, section.stop, order[:, :kept].sort(dim=1).values)  # (B, n)


def check_route(section: TreadSection, config: DiTConfig) -> None:
    """Raises ValueError when the tokens would not come back before the model's last block."""
    if section.stop >= config.depth:
        raise ValueError(
            f"tread.stop is {section.stop}, so tokens would not return before the last of {config.depth} blocks: "
            f"give at most {config.depth - 1}"
        )
