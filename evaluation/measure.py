"""All metrics of one side, per picture, in the order of the tuples: what the gate compares and the report shows.

Colours, light, expansion and leakage are measured before compositing, all else on what a user sees. A metric that does
not apply to a picture is NaN there, for every model alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np

from evaluation.adherence import FLOOR, SHADOW, WALL, regions_of, score
from evaluation.expansion import expansion
from evaluation.metrics.colour import border_colour
from evaluation.metrics.identity import product_identical
from evaluation.metrics.leakage import keep_rmse
from evaluation.metrics.light import light_fall, shadow_agreement
from evaluation.metrics.seam import seam_excess
from training.editing import composite

HIGHER_IS_BETTER: dict[str, bool] = {
    "adherence": True,  # share of what the caption names and the probes find
    "expansion": False,  # area beyond the given product, in its areas
    "leakage": False,  # RMSE over the product before compositing, pictures in [0, 1]
    "seam": False,  # steps along the product's outline beyond the photograph's own, levels of 255
    "shadow": True,  # how surely the true shadow is dark: area under the ROC curve
    "light": True,  # 1: the wall is brighter on the side that the product is lit from
    "feature_distance": False,  # between the composite's and the true picture's features
    "reward": True,
    "clip_score": True,
    "identity": True,  # 1 or else something is broken
}
"""Every metric that `measure_all` can return, and which way is better."""

PARTIAL = frozenset({"expansion", "shadow", "light", "feature_distance"})
"""Metrics of the sample catalogue alone, whose truth is known: NaN for photographs."""

Rank = Callable[[np.ndarray, np.ndarray, Sequence[str]], np.ndarray]
"""Composites uint8 (N, H, W, 3), products bool (N, H, W) and captions → rewards (N,)."""
Score = Callable[[np.ndarray, Sequence[str]], np.ndarray]
"""Pictures uint8 (N, H, W, 3) and captions → scores (N,)."""


class Picture(Protocol):
    """A picture with its product, caption and true attributes: `deploy.samples.Sample` is one."""

    @property
    def image(self) -> np.ndarray: ...  # uint8 (H, W, 3)
    @property
    def product(self) -> np.ndarray: ...  # bool (H, W)
    @property
    def caption(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...


def measure_all(
    samples: Sequence[Picture],
    made: np.ndarray,
    *,
    captions: Sequence[str] | None = None,
    colours: Sequence[str | None] | None = None,
    extractor: Callable[[np.ndarray], np.ndarray] | None = None,
    segmenter: Callable[[np.ndarray], np.ndarray] | None = None,
    reward: Rank | None = None,
    clip: Score | None = None,
) -> dict[str, np.ndarray]:
    """Metric → float64 (N,), of `HIGHER_IS_BETTER`; those of `PARTIAL` hold NaN for samples without true regions.

    Args:
        samples: N held-out pictures of the sample catalogue, photographs, or both, all of one size.
        made: uint8 (N, S, S, 3) as generated, before compositing.
        captions: what each was asked for; None: its own caption.
        colours: for photographs the palette colour that the caption names; None where none is, and it counts as met.
        extractor: pictures → features (N, D), for `feature_distance`.
        segmenter: pictures → bool (N, S, S), for `expansion`.
        reward, clip: for the metrics of these names.

    Raises:
        ValueError: as many pictures, captions or colours as samples are not there, or a sample without a product.
    """
    count = len(samples)
    asked = [sample.caption for sample in samples] if captions is None else list(captions)
    named = [None] * count if colours is None else list(colours)
    if not count or not len(made) == len(asked) == len(named) == count:
        raise ValueError(f"{count} samples, {len(made)} pictures, {len(asked)} captions and {len(named)} colours")
    images = np.stack([sample.image for sample in samples])
    products = np.stack([sample.product for sample in samples])
    known = np.array(["regions" in sample.attributes for sample in samples])
    seen = composite(images, made, products)
    found = {
        "leakage": keep_rmse(made, images, products),
        "seam": _each(seam_excess, seen, images, products),
        "identity": _each(product_identical, seen, images, products),
        "adherence": np.full(count, np.nan),
    }
    if (~known).any():
        rows = np.flatnonzero(~known)
        found["adherence"][rows] = [_border(made[row], products[row], named[row]) for row in rows]
    if known.any():
        found |= {name: np.full(count, np.nan) for name in ("shadow", "light")}
        rows = np.flatnonzero(known)
        for name, values in _by_truth([samples[row] for row in rows], made[rows]).items():
            found[name][rows] = values
        if segmenter is not None:
            found["expansion"] = _at(rows, count, expansion(segmenter(made[rows]), products[rows]))
        if extractor is not None:
            apart = extractor(seen[rows]).astype(np.float64) - extractor(images[rows])
            found["feature_distance"] = _at(rows, count, np.linalg.norm(apart, axis=1))
    if reward is not None:
        found["reward"] = np.asarray(reward(seen, products, asked), np.float64)
    if clip is not None:
        found["clip_score"] = np.asarray(clip(seen, asked), np.float64)
    return found


def regions_at(sample: Picture) -> np.ndarray:
    """The sample's true regions at its picture's size, uint8 (S, S); see `adherence.regions_of`."""
    regions = regions_of(sample.attributes)
    height, width = sample.product.shape
    if regions.shape == (height, width):
        return regions
    return cv2.resize(regions, (width, height), interpolation=cv2.INTER_NEAREST)


def _by_truth(samples: Sequence[Picture], made: np.ndarray) -> dict[str, np.ndarray]:
    """Adherence, shadow and light (N,) of catalogue pictures."""
    images = np.stack([sample.image for sample in samples])
    products = np.stack([sample.product for sample in samples])
    regions = np.stack([regions_at(sample) for sample in samples])
    probes = score(made, images, products, regions, [sample.attributes for sample in samples])
    answers = [probes[name] for name in ("wall_colour", "floor_colour", "floor_line", "shadow_side")]
    walls = _each(light_fall, made, regions == WALL, products)
    from_right = np.array([sample.attributes["shadow_side"] == "left" for sample in samples])
    return {
        "adherence": np.nanmean(answers, axis=0),  # a seamless background has no line to find
        "shadow": _each(shadow_agreement, made, regions == FLOOR, regions == SHADOW),
        "light": ((walls > 0) == from_right).astype(np.float64) * (walls != 0),
    }


def _border(made: np.ndarray, product: np.ndarray, colour: str | None) -> float:
    return 1.0 if colour is None else float(border_colour(made, product) == colour)


def _each(measure: Callable[..., float], *columns: np.ndarray) -> np.ndarray:
    return np.array([measure(*row) for row in zip(*columns, strict=True)], np.float64)


def _at(rows: np.ndarray, count: int, values: np.ndarray) -> np.ndarray:
    """float64 (count,): `values` at `rows`, NaN elsewhere."""
    out = np.full(count, np.nan)
    out[rows] = values
    return out
