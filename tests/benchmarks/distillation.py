"""The student against its teacher: what few steps cost in quality, and what they save.

Takes the teacher, the latents and the autoencoder of a finished line. It distils a student, timed, and holds its
pictures at 1, 2, 4 and 8 steps against the teacher's at 8 with guidance: the same held-out pictures, captions and
noise. Non-inferior is what lies, with 95 % confidence over the pairs, less than a fifth of the teacher's own deviation
below it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy import compare
from deploy.engines.model import OnnxModel
from deploy.engines.onnxruntime import OrtGraph
from deploy.evaluate import shift_of
from deploy.graphs import to_onnx, trunk_export
from deploy.samples import Pictures, Sample
from evaluation.bootstrap import mean_interval
from evaluation.expansion import expansion
from evaluation.features import FeatureExtractor, open_extractor
from evaluation.metrics.colour import away_from
from evaluation.palette import NAMES, nearest_colours, rgb_to_lab
from evaluation.product_segmenter import train_segmenter
from infra.jobs.program import JobContext
from infra.object_store import ObjectStore
from tests.benchmarks.finished_line import finished_line
from tests.benchmarks.personalise import newest
from tests.benchmarks.promise import Promise
from training.editing import Parts, complete
from training.models.io import load_model
from training.models.text_encoder import TextEncoder
from training.parts import TorchParts
from training.precision import autocast, fast_dtype
from training.presets import load_preset
from training.specs import DistilSpec

STEPS, TEACHER_STEPS, GUIDANCE, BATCH = (1, 2, 4, 8), 8, 2.0, 16
LIMIT_S, RATIO, MARGIN = 90.0, 3.5, 0.2
ROUNDS = 8


@dataclass(frozen=True)
class Bench:
    """The line's models, opened, and the held-out pictures with what finds their products."""

    store: ObjectStore
    teacher: str
    autoencoder: str
    dataset: str
    latents: str
    samples: list[Sample]
    text: TextEncoder
    segment: Callable[[np.ndarray], np.ndarray]
    features: FeatureExtractor

    def parts(self, model: Any) -> TorchParts:
        autoencoder = load_model(self.store, self.autoencoder)
        return TorchParts(autoencoder, model, self.embed, load_preset("nano").image_size, fast_dtype())

    def embed(self, captions: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.text.embed(list(captions))

    def draw(self, parts: Parts, way: compare.Way) -> np.ndarray:
        """uint8 (N, S, S, 3) before compositing, each picture from noise of its own."""
        captions = [sample.caption for sample in self.samples]
        seeds = [compare.seed_of(0, sample.id) for sample in self.samples]
        return compare.generate(parts, way, self.samples, captions, seeds, 64, lambda done: None)


def promises() -> Iterator[Promise]:
    logging.getLogger("infra.jobs").setLevel(logging.WARNING)
    store = finished_line()
    with tempfile.TemporaryDirectory() as folder:
        bench = opened(store, Path(folder))
        began, worked = time.perf_counter(), time.process_time()
        student = distilled(bench, Path(folder))
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        print(f"distillation: {seconds:.0f} s, {worked:.0f} s of processor time on {torch.get_num_threads()} threads")
        yield Promise("distillation", seconds, LIMIT_S, "s", at_least=False)
        yield from quality(bench, student)
        yield from speed(bench, student)
        yield negative_colour(bench, student)


def opened(store: ObjectStore, folder: Path) -> Bench:
    preset = load_preset("nano")
    dataset = newest(store, "training_set").data["version"]
    pictures = Pictures(store, dataset, preset.image_size, folder / "cache")
    known = pictures.training(2048)
    autoencoder = newest(store, "autoencoder").data["model"]
    segment = train_segmenter(
        np.stack([sample.image for sample in known]), np.stack([sample.product for sample in known]), steps=800, seed=0
    )
    return Bench(
        store,
        newest(store, "inpainting_finetune").data["model"],
        autoencoder,
        dataset,
        newest(store, "latent_shards").data["latents"],
        pictures.holdout(256),
        TextEncoder(None, preset.latents.text_length),
        segment,
        open_extractor("randconv:0"),
    )


def distilled(bench: Bench, folder: Path) -> Any:
    """A student of the preset's section, trained as its job trains it."""
    from training.recipes.distil import run

    preset = load_preset("nano")
    spec = DistilSpec(
        store=bench.store.uri,
        output="bench/distilled",
        dataset=bench.dataset,
        latents=bench.latents,
        autoencoder=bench.autoencoder,
        text_encoder=None,
        image_size=preset.image_size,
        seed=preset.seed,
        teacher=bench.teacher,
        config=preset.distil,
    )
    job: JobContext[DistilSpec] = JobContext(spec, bench.store, spec.output, folder / "job")
    job.folder.mkdir()
    return load_model(bench.store, run(spec, job).data["model"])


def quality(bench: Bench, student: Any) -> Iterator[Promise]:
    """Promises of the default's four steps; every budget's figures are printed."""
    shift = shift_of(bench.store, bench.teacher)
    teacher = bench.parts(load_model(bench.store, bench.teacher))
    best = scores(bench, bench.draw(teacher, compare.Way(TEACHER_STEPS, GUIDANCE, student=False, shift=shift)))
    print(f"teacher, {TEACHER_STEPS} steps: {_shown(best)}", flush=True)
    parts = bench.parts(student)
    for steps in STEPS:
        found = scores(bench, bench.draw(parts, compare.Way(steps, GUIDANCE, student=True)))
        print(f"student, {steps} steps: {_shown(found)}", flush=True)
        if steps == 4:
            for name, (higher, theirs) in best.items():
                gain = (found[name][1] - theirs) * (1 if higher else -1)
                yield Promise(
                    f"student at 4 steps over its teacher at {TEACHER_STEPS}, {name}, lower end of 95 %",
                    mean_interval(gain).low / max(theirs.std(), 1e-6),
                    -MARGIN,
                    "of the teacher's deviation",
                )


Scores = Mapping[str, tuple[bool, np.ndarray]]
"""Metric → whether higher is better, and its value per picture (N,)."""


def scores(bench: Bench, made: np.ndarray) -> Scores:
    """Pictures uint8 (N, S, S, 3) before compositing."""
    found = compare.score_all(bench.samples, {"": made})[""]
    asked = np.stack([found[name] for name in ("wall_colour", "floor_colour", "shadow_side", "floor_line")])
    products = np.stack([sample.product for sample in bench.samples])
    truth = np.stack([sample.image for sample in bench.samples])
    apart = np.linalg.norm(bench.features(made) - bench.features(truth), axis=1)
    return {
        "caption adherence": (True, np.nanmean(asked, axis=0)),
        "expansion": (False, expansion(bench.segment(made), products)),
        "feature distance": (False, apart),
    }


def _shown(found: Scores) -> str:
    return ", ".join(f"{name} {values.mean():.4f}" for name, (_, values) in found.items())


def speed(bench: Bench, student: Any) -> Iterator[Promise]:
    """Turn about, the best of each: the trunk alone, as the graph that is served and in PyTorch, then a picture."""
    teacher = load_model(bench.store, bench.teacher)
    shift = shift_of(bench.store, bench.teacher)
    cells = load_preset("nano").image_size // load_model(bench.store, bench.autoencoder).config.factor
    samples = bench.samples[:BATCH]
    captions = [sample.caption for sample in samples]
    text, length = (torch.from_numpy(part) for part in bench.embed(captions))
    text = text[:, : max(2, int(length.max()))].float()  # as both sides cut it
    latent = torch.randn(BATCH, teacher.config.latent_channels, cells, cells)
    given = (latent, torch.ones(BATCH), latent, torch.ones(BATCH, 1, cells, cells), text, length.long())
    twice = tuple(torch.cat([part, part]) for part in given)
    nothing = (torch.zeros(BATCH, 2, text.shape[2]), torch.zeros(BATCH, dtype=torch.int64))
    few = (*given, given[1], given[1])
    threads = torch.get_num_threads()
    served = {name: Served(name, model, threads) for name, model in (("student", student), ("teacher", teacher))}
    images, products = (np.stack([getattr(sample, name) for sample in samples]) for name in ("image", "product"))
    drawn: dict[str, Any] = {"guidance": GUIDANCE, "seeds": range(BATCH)}
    both = {"teacher": bench.parts(teacher), "student": bench.parts(student)}
    ways: dict[str, Callable[[], object]] = {
        "served, student": lambda: [served["student"](*few, *nothing) for _ in range(4)],
        "served, teacher": lambda: [served["teacher"](*given) for _ in range(2 * TEACHER_STEPS)],
        "served, teacher batched": lambda: [served["teacher"](*twice) for _ in range(TEACHER_STEPS)],
        "PyTorch, student": lambda: [student(*few) for _ in range(4)],
        "PyTorch, teacher": lambda: [teacher(*given) for _ in range(2 * TEACHER_STEPS)],
        "PyTorch, teacher batched": lambda: [teacher(*twice) for _ in range(TEACHER_STEPS)],
        "all, student": lambda: complete(both["student"], images, products, captions, steps=4, student=True, **drawn),
        "all, teacher": lambda: complete(
            both["teacher"], images, products, captions, steps=TEACHER_STEPS, student=False, shift=shift, **drawn
        ),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, run in ways.items():
            with torch.inference_mode(), autocast(fast_dtype()):
                began = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - began)
    print(", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in best.items()), flush=True)
    found = {}
    for form in ("served", "PyTorch"):
        faster = min(best[f"{form}, teacher"], best[f"{form}, teacher batched"])
        found[form] = faster / best[f"{form}, student"]
    print(f"trunk in PyTorch, {str(fast_dtype()).removeprefix('torch.')}: {found['PyTorch']:.2f} times")
    print(f"end to end in PyTorch: {best['all, teacher'] / best['all, student']:.2f} times")
    yield Promise(f"student's trunk over its teacher's, as graphs, batch {BATCH}", found["served"], RATIO, "times")


class Served:
    """A transformer as the graph that an engine serves, float32, fed by position."""

    def __init__(self, name: str, model: Any, threads: int) -> None:
        export = trunk_export(model)
        self.names = list(export.inputs)
        self.graph = OrtGraph(OnnxModel(f"{name}.onnx", to_onnx(export, 18).model.SerializeToString()), threads)

    def __call__(self, *given: torch.Tensor) -> np.ndarray:
        return self.graph({name: part.numpy() for name, part in zip(self.names, given, strict=True)})


def negative_colour(bench: Bench, student: Any) -> Promise:
    """A caption that names no colour, and one of the twelve as the text to lead away from."""
    parts = bench.parts(student)
    colours = [NAMES[index % len(NAMES)] for index in range(len(bench.samples))]
    found = {}
    for name, negative in (("none", None), ("colour", [f"a {colour} wall and a {colour} floor" for colour in colours])):
        made = []
        for start in range(0, len(bench.samples), 64):
            some = slice(start, start + 64)
            images, products = (
                np.stack([getattr(sample, name) for sample in bench.samples[some]]) for name in ("image", "product")
            )
            made.append(
                complete(
                    parts,
                    images,
                    products,
                    [f"a photo of a {sample.attributes['object']}" for sample in bench.samples[some]],
                    steps=4,
                    guidance=GUIDANCE,
                    seeds=[compare.seed_of(1, sample.id) for sample in bench.samples[some]],
                    student=True,
                    negative=None if negative is None else negative[some],
                )
            )
        pairs = zip(np.concatenate(made), bench.samples, colours, strict=True)
        found[name] = np.array([_share(image, sample.product, colour) for image, sample, colour in pairs])
    change = mean_interval(found["colour"] - found["none"])
    print(f"share of a colour: {found['none'].mean():.4f} → {found['colour'].mean():.4f} where it is a negative text")
    return Promise("a negative text's colour, change of its share, upper end of 95 %", change.high, 0.0, at_least=False)


def _share(image: np.ndarray, product: np.ndarray, colour: str) -> float:
    """Of the background's pixels, those that are nearest to a named colour."""
    pixels = image[away_from(product) & ~product]
    return float((nearest_colours(rgb_to_lab(pixels)) == NAMES.index(colour)).mean()) if len(pixels) else 0.0


if __name__ == "__main__":
    for promise in promises():
        print(promise)
