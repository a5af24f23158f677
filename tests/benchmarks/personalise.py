"""Does each way of personalising beat the base on subject similarity, in under three minutes on a CPU?

Takes the autoencoder and the pretrained transformer that the last `make run` left, and a subject that they never saw:
five photographs of one bottle of the sample catalogue. What base and personalised model draw with the same seeds is
held against eight other photographs of it, the product found by a segmenter.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.bootstrap import mean_interval
from evaluation.product_segmenter import ProductSegmenter, train_segmenter
from evaluation.similarity import subject_similarity
from infra.errors import BackdropError
from infra.images import encode_jpeg
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore, open_store
from infra.settings import Settings
from tests.benchmarks.promise import Promise
from tests.benchmarks.subject import photographs
from training.models.text_encoder import TextEncoder
from training.personalise.bundle import load_personalised
from training.personalise.subject import prompts_for, record_subject
from training.presets import load_preset
from training.recipes.personalise import Studio, run
from training.specs import PersonaliseSpec

METHODS = ("dreambooth", "lora", "textual-inversion")
WORD, RGB = "bottle", (0.90, 0.55, 0.10)
SHOTS, REFERENCES, DRAWN = 5, 8, 32
LIMIT_S = 180.0


def newest(store: ObjectStore, asset: str) -> JobResult:
    """The result that an asset's last job committed."""
    keys = [key for key in store.list(f"stages/{asset}/") if key.endswith("/result.json")]
    if not keys:
        raise BackdropError(f"no {asset} has been made in {store.uri}", "run `make run` first")
    paths = {key: store.local_path(key) for key in keys}
    return JobResult.model_validate_json(store.get(max(keys, key=lambda key: _written(paths[key]))))


def _written(path: Path | None) -> float:
    return path.stat().st_mtime if path is not None else 0.0


def catalogue_segmenter(size: int) -> ProductSegmenter:
    """Trained on the benchmark's own renderings, all eight products among them."""
    from assets.sample_catalogue.renderer import render

    scenes = [render(7, index, size) for index in range(1500)]
    return train_segmenter(
        np.stack([scene.image for scene in scenes]),
        np.stack([scene.product_mask for scene in scenes]),
        steps=500,
        seed=0,
    )


def promises() -> Iterator[Promise]:
    logging.getLogger("infra.jobs").setLevel(logging.WARNING)
    settings = Settings.load()
    store, preset = open_store(settings.store_uri), load_preset(settings.preset, settings.config)
    size = preset.image_size
    try:
        base, autoencoder = (newest(store, name).data["model"] for name in ("pretrained_dit", "autoencoder"))
    except BackdropError as error:
        print(f"nothing to personalise: {error}")
        return
    segmenter = catalogue_segmenter(size)
    shots = photographs(WORD, RGB, SHOTS, size)
    others = photographs(WORD, RGB, REFERENCES, size, start=100_000)
    subject = record_subject(
        store, "bench-bottle", WORD, {f"{k}.jpg": encode_jpeg(shot.image) for k, shot in enumerate(shots)}
    )
    references = np.stack([scene.image for scene in others]), np.stack([scene.product_mask for scene in others])
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            spec = PersonaliseSpec(
                store=store.uri,
                output=f"bench/personalise/{method}",
                base=base,
                autoencoder=autoencoder,
                text_encoder=settings.text_encoder,
                dataset="",
                subject=subject.name,
                word=subject.word,
                photographs=subject.photographs,
                image_ids=tuple(subject.image_ids),
                image_size=size,
                config=preset.personalise.model_copy(update={"method": method}),
                seed=preset.seed,
            )
            job: JobContext[Any] = JobContext(spec, store, spec.output, Path(folder))
            began = time.perf_counter()
            result = run(spec, job)
            seconds = time.perf_counter() - began
            yield Promise(f"personalise by {method}", seconds, LIMIT_S, "s", at_least=False)
            yield _gain(job, result, segmenter, *references)


def _gain(
    job: JobContext[Any], result: JobResult, segmenter: ProductSegmenter, images: np.ndarray, masks: np.ndarray
) -> Promise:
    """The lower end of the paired 95 % interval of what personalising adds to the similarity."""
    spec = job.spec
    studio = Studio.open(spec, job)
    made = load_personalised(job.store, result.data["model"], TextEncoder(spec.text_encoder, spec.config.text_length))
    seeds = range(1000, 1000 + DRAWN)

    def drawn(model: Any, embed: Any, phrase: str) -> np.ndarray:
        captions = [prompts_for(phrase)[k % 5] for k in range(DRAWN)]
        return studio.draw(model, embed, captions, seeds)

    before = drawn(studio.base, studio.embed, spec.word)
    after = drawn(made.transformer, made.embed, made.learned.phrase)
    scores = [subject_similarity(pictures, segmenter(pictures), images, masks) for pictures in (before, after)]
    gain = mean_interval(scores[1] - scores[0])
    print(
        f"{spec.config.method}: similarity {scores[0].mean():.3f} → {scores[1].mean():.3f}, "
        f"gain {gain.mean:.3f} (95 % {gain.low:.3f} to {gain.high:.3f})"
    )
    return Promise(f"{spec.config.method}'s gain in similarity, lower end", gain.low, 0.0)


if __name__ == "__main__":
    for promise in promises():
        print(promise, flush=True)
