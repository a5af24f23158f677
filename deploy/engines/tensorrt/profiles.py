"""The shapes that a plan is built for: one profile per aspect-ratio bucket, whose picture size is fixed.

A plan's kernels are chosen per profile, and a profile over many sizes has kernels that are good at none (facts: §2.7).
Pure, and importable without tensorrt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """`low` ≤ `best` ≤ `high`, each symbol of the ONNX file → its value. `bucket` names the aspect ratio.

    A dimension of the ONNX file is a number, a symbol, or a number times a symbol ("2*rows").
    """

    bucket: str
    low: Mapping[str, int]
    best: Mapping[str, int]
    high: Mapping[str, int]

    def shapes(self, dimensions: list[int | str]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(min, opt, max) shapes of one input. Raises KeyError for a symbol that the profile does not know."""
        low, best, high = (
            tuple(_resolve(dimension, sizes) for dimension in dimensions) for sizes in (self.low, self.best, self.high)
        )
        return low, best, high


def _resolve(dimension: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    factor, _, symbol = dimension.rpartition("*")
    return int(factor or 1) * sizes[symbol.strip()]


def bucket_profiles(
    sizes: Mapping[str, tuple[int, int]], factor: int, patch: int, tokens: int, batch: int
) -> dict[str, list[dict[str, object]]]:
    """Graph → profiles as JSON, one per bucket of `sizes` (name → height and width in pixels).

    Batches of 1 to `batch`, best at 1: a user waits for one picture. The text graph has one, without a size.
    """

    def of(bucket: str, fixed: Mapping[str, int], free: Mapping[str, tuple[int, int, int]]) -> dict[str, object]:
        ends = zip(*({"batch": (1, 1, batch), **free}).values(), strict=True)
        names = ["batch", *free]
        low, best, high = ({**dict(zip(names, end, strict=True)), **fixed} for end in ends)
        return {"bucket": bucket, "low": low, "best": best, "high": high}

    words = {"tokens": (1, tokens, tokens), "away": (1, 2, tokens)}  # mostly without a negative text
    pictures, trunk = [], []
    for bucket, (height, width) in sizes.items():
        cells = {"rows": height // factor, "columns": width // factor}
        pictures.append(of(bucket, cells, {}))
        trunk.append(of(bucket, {name: count // patch for name, count in cells.items()}, words))
    return {"encoder": pictures, "decoder": pictures, "trunk": trunk, "text": [of("", {}, words)]}


def fitting(shapes: Mapping[str, tuple[int, ...]], ranges: Sequence[Mapping[str, tuple[Sequence[int], ...]]]) -> int:
    """The index of the first profile whose (min, opt, max) of every input holds its shape. Raises LookupError."""
    for index, profile in enumerate(ranges):
        if all(
            len(shape) == len(profile[name][0])
            and all(
                low <= side <= high for low, side, high in zip(profile[name][0], shape, profile[name][2], strict=True)
            )
            for name, shape in shapes.items()
        ):
            return index
    raise LookupError(", ".join(f"{name} {shape}" for name, shape in shapes.items()))
