"""The reward model of the line: learned from preference pairs while an engine is evaluated, and watched while it picks.

What it learns from are the sample catalogue's true attributes (the true picture before one with another background,
light, floor line …) and a labelling file, where there is one. It is kept as a bundle of its own: whoever serves the
engine picks the best of k by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploy.compare import Way
from deploy.contest import Tuples
from deploy.engines.protocol import GraphEngine
from deploy.expansion import decoded
from deploy.samples import Sample
from deploy.specs import EvaluateSpec
from evaluation.features import FeatureExtractor, key_of
from evaluation.measure import measure_all
from evaluation.preferences import catalogue_preferences, read_labels
from evaluation.ranking import best_of_k, watch
from evaluation.reward import Reward, accuracy, save_reward, train_reward
from infra.jobs.program import JobContext

LEARNED = 768
"""Training pictures that the pairs are made of, at most."""
INDEPENDENT = "feature_distance"
"""What the choice is watched by: no pair tells of it."""


@dataclass(frozen=True)
class Rewarded:
    """The reward, its bundle, and on held-out pairs the share that it puts right, by their kind."""

    reward: Reward
    bundle: str
    accuracy: Mapping[str, float]


def learn(
    spec: EvaluateSpec,
    job: JobContext[EvaluateSpec],
    engine: GraphEngine,
    known: Sequence[Sample],
    held_out: Sequence[Sample],
) -> Rewarded | None:
    """Train and keep it; None where it was not asked for, or there is nothing to learn from."""
    section = spec.config
    through = partial(decoded, engine)
    pairs = catalogue_preferences(known[:LEARNED], spec.seed, through) if len(known) > 1 else []
    if section.reward_labels is not None:
        pairs += read_labels(Path(section.reward_labels).expanduser())
    if not section.reward_steps or not pairs:
        return None
    learning = partial(job.progress, "reward")
    reward = train_reward(pairs, engine.embed, steps=section.reward_steps, seed=spec.seed, progress=learning)
    meta = {"dataset": spec.dataset, "autoencoder": spec.autoencoder, "pairs": len(pairs)}
    bundle = save_reward(job.store, f"{job.output}/reward", reward, meta)
    shares = accuracy(reward, catalogue_preferences(held_out, spec.seed + 1, through)) if len(held_out) > 1 else {}
    return Rewarded(reward, bundle, shares)


def watched(
    spec: EvaluateSpec, engine: GraphEngine, tuples: Tuples, way: Way, reward: Reward, extractor: FeatureExtractor
) -> dict[str, Any] | None:
    """What picking the best of k does to the reward, and to `INDEPENDENT`, on the first catalogue pictures of `tuples`.

    None where there is nothing to pick from.
    """
    section = spec.config
    rows = [row for row, sample in enumerate(tuples.samples) if sample.attributes.get("regions")][: section.watched]
    if section.best_of < 2 or len(rows) < 2:
        return None
    rewards, apart = [], []
    for start in range(0, len(rows), max(1, section.batch_size // section.best_of)):
        some = rows[start : start + max(1, section.batch_size // section.best_of)]
        samples = [tuples.samples[row] for row in some]
        chosen = best_of_k(
            engine,
            np.stack([sample.image for sample in samples]),
            np.stack([sample.product for sample in samples]),
            [tuples.captions[row] for row in some],
            k=section.best_of, ranker=reward, steps=way.steps, guidance=way.guidance,
            seeds=[tuples.seeds[row] for row in some], student=way.student,
        )  # fmt: skip
        rewards.append(chosen.rewards)
        each = [
            measure_all(samples, chosen.candidates[:, k], extractor=extractor)[INDEPENDENT]
            for k in range(section.best_of)
        ]
        apart.append(np.stack(each, axis=1))  # (n, k)
    found = watch(np.concatenate(rewards), np.concatenate(apart), higher_is_better=False, seed=spec.seed)
    return {"independent": INDEPENDENT, **key_of(extractor), "requests": len(rows), **found.as_dict()}
