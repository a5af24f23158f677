"""Engine, teacher and baselines on the same held-out pictures: what each generates, and how it scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from deploy.samples import Sample, true_regions
from evaluation.adherence import METRICS, score
from evaluation.baselines import inpaint_telea, mean_background, nearest_captions
from evaluation.metrics.identity import product_identical
from training.editing import Parts, complete, composite

ENGINE, TEACHER = "engine", "teacher"
MEAN_COLOUR, NEAREST_CAPTION, TELEA = "mean colour", "nearest caption", "Telea"
BASELINES = (MEAN_COLOUR, NEAREST_CAPTION, TELEA)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Way:
    """How a model is asked: steps, guidance, whether it is a student (one forward a step), and the times' shift."""

    steps: int
    guidance: float
    student: bool
    shift: float = 1.0

    @property
    def forwards(self) -> int:
        """Forwards of the trunk per picture."""
        return self.steps * (1 if self.student or self.guidance == 1.0 else 2)


def generate(
    parts: Parts,
    way: Way,
    samples: Sequence[Sample],
    captions: Sequence[str],
    seeds: Sequence[int],
    batch_size: int,
    progress: Progress,
) -> np.ndarray:
    """uint8 (N, S, S, 3) as generated, before compositing; `progress` hears how many pictures are done."""
    done: list[np.ndarray] = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        done.append(
            complete(
                parts,
                np.stack([sample.image for sample in batch]),
                np.stack([sample.product for sample in batch]),
                captions[start : start + batch_size],
                steps=way.steps,
                guidance=way.guidance,
                seeds=seeds[start : start + batch_size],
                student=way.student,
                shift=way.shift,
            )
        )
        progress(len(batch))
    return np.concatenate(done)


def seed_of(seed: int, identity: str) -> int:
    """A picture's own seed: the same for every model, every batch size and every order of pictures."""
    return int.from_bytes(sha256(f"{seed} {identity}".encode()).digest()[:8], "big")


def fill_by_baselines(
    samples: Sequence[Sample],
    training: Iterable[Sample],
    embed: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Baseline → its pictures uint8 (N, S, S, 3), or an empty mapping when nothing was trained on."""
    known = list(training)
    if not known:
        return {}
    images = np.stack([sample.image for sample in samples])
    products = np.stack([sample.product for sample in samples])
    mean = mean_background((sample.image, sample.product) for sample in known)
    queries = sentences(embed, [sample.caption for sample in samples])
    nearest = nearest_captions(queries, sentences(embed, [sample.caption for sample in known]))
    return {
        MEAN_COLOUR: np.broadcast_to(mean, images.shape).copy(),
        NEAREST_CAPTION: np.stack([known[index].image for index in nearest]),
        TELEA: inpaint_telea(images, products),
    }


def sentences(
    embed: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]], captions: Sequence[str], chunk: int = 512
) -> np.ndarray:
    """One vector per caption, float32 (N, E): the mean over its tokens. Chunked, for tokens take 50 times the room."""
    vectors = []
    for start in range(0, len(captions), chunk):
        text, length = embed(captions[start : start + chunk])  # (n, L, E), (n,)
        valid = np.arange(text.shape[1]) < length[:, None]  # (n, L)
        total = np.einsum("nle,nl->ne", text.astype(np.float32), valid.astype(np.float32))
        vectors.append(total / np.maximum(length.astype(np.float32), 1)[:, None])
    return np.concatenate(vectors)


def score_all(samples: Sequence[Sample], pictures: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Column → what `evaluation.adherence.score` says of its pictures."""
    truth = np.stack([sample.image for sample in samples])
    products = np.stack([sample.product for sample in samples])
    regions = np.stack([true_regions(sample) for sample in samples])
    attributes = [sample.attributes for sample in samples]
    return {name: score(made, truth, products, regions, attributes) for name, made in pictures.items()}


def means_of(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Column → metric → mean, as plain floats."""
    return {name: {metric: float(found["means"][metric]) for metric in METRICS} for name, found in scores.items()}


def identity_share(samples: Sequence[Sample], generated: np.ndarray) -> float:
    """Share of pictures whose every product pixel equals the input's after compositing; it has to be 1."""
    images = np.stack([sample.image for sample in samples])
    products = np.stack([sample.product for sample in samples])
    composites = composite(images, generated, products)
    pairs = zip(composites, images, products, strict=True)
    return float(np.mean([product_identical(made, image, product) for made, image, product in pairs]))
