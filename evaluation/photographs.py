"""Real photographs: nobody knows their true background, but a caption names a colour that the border must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations

import numpy as np

from evaluation.metrics.colour import border_colour
from evaluation.metrics.identity import product_identical
from evaluation.palette import NAMES

PHRASES = (
    "a product on a seamless {colour} background",
    "a product against a plain {colour} backdrop",
    "the product on a {colour} background",
    "an object against a plain {colour} backdrop",
)
MIN_DIFFERENCE = 0.005
"""Mean absolute difference over the hole (pictures in [0, 1]) under which two captions gave the same picture."""


@dataclass(frozen=True)
class Request:
    """One caption for a photograph and the palette colour it names."""

    caption: str
    colour: str


@dataclass(frozen=True)
class PhotographScore:
    """How one photograph's captions were answered. `seen`: the palette name found at the border, per caption."""

    seen: tuple[str | None, ...]
    matched: tuple[bool, ...]
    least_difference: float
    identical: bool

    @property
    def different(self) -> bool:
        """Whether every caption gave a picture of its own."""
        return self.least_difference >= MIN_DIFFERENCE


def requests_for(identity: str, count: int) -> list[Request]:
    """`count` captions with different colours, chosen by the picture's id alone, so that a re-run asks the same."""
    if not 1 <= count <= len(NAMES):
        raise ValueError(f"{count} captions asked for, the palette has {len(NAMES)} colours")
    rng = np.random.default_rng(int.from_bytes(sha256(identity.encode()).digest()[:8], "big"))
    colours = [NAMES[index] for index in rng.permutation(len(NAMES))[:count]]
    return [Request(_say(PHRASES[k % len(PHRASES)], colour), colour) for k, colour in enumerate(colours)]


def _say(phrase: str, colour: str) -> str:
    return phrase.format(colour=colour).replace("a orange", "an orange")


def score_photograph(
    original: np.ndarray,
    product: np.ndarray,
    generated: np.ndarray,
    composites: np.ndarray,
    requests: Sequence[Request],
) -> PhotographScore:
    """Judge the answers to one photograph's captions.

    Args:
        original: uint8 (H, W, 3).
        product: bool (H, W).
        generated: uint8 (K, H, W, 3), one per request, before compositing.
        composites: uint8 (K, H, W, 3), after it.
        requests: K requests.

    Raises:
        ValueError: as many pictures as requests are needed, and at least one.
    """
    if not len(generated) == len(composites) == len(requests) > 0:
        raise ValueError(f"{len(generated)} pictures, {len(composites)} composites and {len(requests)} requests")
    seen = tuple(border_colour(picture, product) for picture in generated)
    hole = generated[:, ~product].astype(np.float32) / 255.0  # (K, pixels, 3)
    apart = [float(np.abs(hole[a] - hole[b]).mean()) for a, b in combinations(range(len(hole)), 2)]
    return PhotographScore(
        seen=seen,
        matched=tuple(name == request.colour for name, request in zip(seen, requests, strict=True)),
        least_difference=min(apart, default=float("inf")),
        identical=all(product_identical(composite, original, product) for composite in composites),
    )


def summarise(scores: Sequence[PhotographScore]) -> dict[str, float]:
    """Shares over all photographs; an empty list gives {"photographs": 0}."""
    if not scores:
        return {"photographs": 0.0}
    answers = [matched for score in scores for matched in score.matched]
    return {
        "photographs": float(len(scores)),
        "answers": float(len(answers)),
        "border_colour": float(np.mean(answers)),
        "different": float(np.mean([score.different for score in scores])),
        "identical": float(np.mean([score.identical for score in scores])),
    }
