"""Object expansion on the held-out catalogue: what fine-tuning's second stage did to the habit of growing products.

The segmenter is trained here, on catalogue pictures that the models were trained on, a quarter of them as the
autoencoder gives them back: that is how a generated picture looks. It is not believed when it does not find the
held-out pictures' products. What it finds beyond the true mask in the true pictures, encoded and decoded, is the
measurement's own error, and is shown beside the models' numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.compare import ENGINE, TEACHER
from deploy.samples import Sample
from evaluation.expansion import LEAST_IOU, Comparison, compare_stages, expansion, intersection_over_union
from training.editing import Parts, to_float, to_uint8

log = logging.getLogger(__name__)

STAGE1, TRUTH = "stage 1", "true pictures"
LEARNED = 2048
"""Training pictures that the segmenter learns from, at most; every third one is shown decoded as well."""
_CHUNK = 64


@dataclass(frozen=True)
class Expansions:
    """Mean expansion per column, and stage 2 (the teacher) against stage 1. `why` says why nothing was measured.

    `iou` is the segmenter's on held-out pictures, `decoded_iou` the same on those pictures encoded and decoded.
    """

    iou: float | None = None
    decoded_iou: float | None = None
    means: Mapping[str, float] = field(default_factory=dict)
    stages: Comparison | None = None
    why: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for result.json."""
        found: dict[str, object] = {
            "segmenter_iou": self.iou,
            "segmenter_iou_decoded": self.decoded_iou,
            "means": dict(self.means),
            "note": self.why,
        }
        if self.stages is not None:
            gap = self.stages.difference
            found["stage2_less_stage1"] = {"mean": gap.mean, "low": gap.low, "high": gap.high}
            found["share_of_stage1"] = self.stages.share
            found["pictures"] = self.stages.pictures
        return found


Segmenter = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 (N, S, S, 3) → their products, bool (N, S, S)."""


def learn(
    training: Sequence[Sample], parts: Parts, *, steps: int, seed: int, progress: Callable[[int, int], None]
) -> Segmenter:
    """A segmenter that has learned the catalogue's products for `steps`; of `parts` only the autoencoder is used."""
    from evaluation.product_segmenter import train_segmenter

    known = np.stack([sample.image for sample in training[:LEARNED]])
    masks = np.stack([sample.product for sample in training[:LEARNED]])
    return train_segmenter(
        np.concatenate([known, decoded(parts, known[::3])]),
        np.concatenate([masks, masks[::3]]),
        steps=steps,
        seed=seed,
        progress=progress,
    )


def measure(
    segmenter: Segmenter | None,
    made: Mapping[str, np.ndarray],
    samples: Sequence[Sample],
    parts: Parts,
    seed: int,
) -> Expansions:
    """Expansions of `made`, column → uint8 (N, S, S, 3) before compositing; `STAGE1` and `TEACHER` are compared.

    Of `parts` only the autoencoder is used.
    """
    if segmenter is None:
        return _nothing("no segmenter was asked for, or there are no catalogue pictures")
    shown = [index for index, sample in enumerate(samples) if sample.product.any()]
    if len(shown) < 2:
        return _nothing(f"{len(shown)} held-out pictures with a product say nothing")
    truth = np.stack([samples[index].image for index in shown])
    products = np.stack([samples[index].product for index in shown])
    iou = float(intersection_over_union(segmenter(truth), products).mean())
    if iou < LEAST_IOU:
        return _nothing(f"the segmenter's held-out IoU is {iou:.3f}, below {LEAST_IOU}", iou)
    grown = {
        name: expansion(segmenter(made[name][shown]), products) for name in (ENGINE, TEACHER, STAGE1) if name in made
    }
    seen = segmenter(decoded(parts, truth))
    grown[TRUTH] = expansion(seen, products)
    decoded_iou = float(intersection_over_union(seen, products).mean())
    means = {name: float(values.mean()) for name, values in grown.items()}
    if STAGE1 not in grown:
        why = "the fine-tune left no model of its first stage"
        log.info("object expansion: %s", why)
        return Expansions(iou, decoded_iou, means, None, why)
    return Expansions(iou, decoded_iou, means, compare_stages(grown[STAGE1], grown[TEACHER], seed))


def decoded(parts: Parts, images: np.ndarray) -> np.ndarray:
    """Pictures uint8 (N, S, S, 3) as the autoencoder gives them back."""
    chunks = []
    for start in range(0, len(images), _CHUNK):
        pixels = to_float(images[start : start + _CHUNK]).transpose(0, 3, 1, 2)  # (n, 3, S, S)
        chunks.append(to_uint8(parts.decode(parts.encode(np.ascontiguousarray(pixels))).transpose(0, 2, 3, 1)))
    return np.concatenate(chunks)


def _nothing(why: str, iou: float | None = None) -> Expansions:
    log.info("object expansion is not measured: %s", why)
    return Expansions(iou, why=why)
