"""Where an engine fails: its worst answers as one picture, for the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.samples import Sample
from evaluation.measure import HIGHER_IS_BETTER
from evaluation.report.figures import cut_out
from infra.images import encode_png
from training.editing import composite

_GAP = 4  # pixels between two answers


@dataclass(frozen=True)
class Failures:
    """`png`: what was given over what came back, one column per answer; `lines`: the same in words, from left to right;
    `ids`: the pictures that can be seen."""

    png: bytes
    lines: list[dict[str, Any]]
    ids: list[str]


def worst_answers(
    samples: Sequence[Sample],
    captions: Sequence[str],
    made: np.ndarray,
    scores: Mapping[str, np.ndarray],
    primary: str,
    count: int = 8,
) -> Failures | None:
    """The answers with the lowest primary metric; among equals those that are worst in the rest. None without any.

    Args:
        made: uint8 (N, S, S, 3), before compositing.
        scores: metric → (N,).
    """
    if not samples or primary not in scores:
        return None
    rest = np.zeros(len(samples))
    for name, values in scores.items():
        spread = np.nanstd(values) if np.isfinite(values).any() else 0.0
        if name != primary and spread:
            sign = 1.0 if HIGHER_IS_BETTER[name] else -1.0
            rest += np.nan_to_num(sign * (values - np.nanmean(values)) / spread)
    order = [int(row) for row in np.lexsort((rest, scores[primary]))[:count]]
    columns = []
    for row in order:
        sample = samples[row]
        whole = composite(sample.image[None], made[row][None], sample.product[None])[0]
        column = np.concatenate([cut_out(sample.image, sample.product), whole])  # (2S, S, 3)
        columns += [column, np.full((len(column), _GAP, 3), 255, np.uint8)]
    lines = [
        {"caption": captions[row], **{k: round(float(v[row]), 4) for k, v in scores.items() if v[row] == v[row]}}
        for row in order
    ]
    return Failures(encode_png(np.concatenate(columns[:-1], axis=1)), lines, [samples[row].id for row in order])
