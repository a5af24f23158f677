"""Distances of whole sets of pictures to a reference, with their keys: what the report shows beside the gate.

They guard and never gate (see `evaluation.metrics.distance`): a challenger that is surely farther away deserves a look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.features import FeatureExtractor, measured
from evaluation.measured import Measured, comparable, reference_of
from evaluation.metrics.distance import KERNELS, Guard, guard, mmd


@dataclass(frozen=True)
class Guarded:
    """One distance of both sides, and whether the challenger's is surely the larger one.

    Raises:
        BackdropError: the two were not made alike.
    """

    champion: Measured
    challenger: Measured
    guard: Guard

    def __post_init__(self) -> None:
        comparable(self.champion, self.challenger)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "champion": self.champion.as_dict(),
            "challenger": self.challenger.as_dict(),
            "p": self.guard.p,
            "spread": self.guard.spread,
            "worse": self.guard.worse,
        }


def distances(
    extractor: FeatureExtractor, made: np.ndarray, reference: np.ndarray, identities: Sequence[str]
) -> dict[str, Measured]:
    """KID and CMMD of composites uint8 (N, S, S, 3) to reference pictures (M, S, S, 3), whose ids are `identities`."""
    ours, theirs = extractor(made), extractor(reference)
    known = reference_of(identities)
    return {
        name: measured(mmd(ours, theirs, kernel), name, extractor, len(made), known) for name, kernel in KERNELS.items()
    }


def guards(
    extractor: FeatureExtractor,
    champion: np.ndarray,
    challenger: np.ndarray,
    reference: np.ndarray,
    identities: Sequence[str],
    seed: int = 0,
) -> dict[str, Guarded]:
    """The same of two sides, which answered the same N tuples, and the paired null over the two.

    Raises:
        ValueError: sides that do not pair.
    """
    old, new, theirs = (extractor(pictures) for pictures in (champion, challenger, reference))
    known = reference_of(identities)
    found = {}
    for name, kernel in KERNELS.items():
        test = guard(old, new, theirs, kernel, seed=seed)
        numbers = [measured(value, name, extractor, len(old), known) for value in (test.champion, test.challenger)]
        found[name] = Guarded(numbers[0], numbers[1], test)
    return found
