"""The verb `evaluate`: engine, teacher and baselines on pictures nothing was trained on, and the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from deploy import compare
from deploy import expansion as expansions
from deploy.checks import judge
from deploy.engines.open import open_engine
from deploy.engines.protocol import GraphEngine
from deploy.parity import ParityRow, worst
from deploy.report import Findings, PhotographAnswers, build_report, shown_in_report
from deploy.samples import Pictures, Sample
from deploy.specs import EvaluateSpec
from evaluation.photographs import requests_for, score_photograph, summarise
from evaluation.report.page import render
from infra.bundles import open_bundle
from infra.jobs.program import JobContext
from infra.jobs.spec import Check, JobResult
from infra.object_store import ObjectStore
from training.editing import Parts, composite
from training.models.io import load_model
from training.parts import TorchParts
from training.precision import fast_dtype

_KNOWN_BYTES = 4 << 30  # of training pictures in memory, each with its mask: all of them up to 256 pixels or so


@dataclass
class _Counter:
    """Adds up pictures over all models, for one progress bar."""

    job: JobContext[EvaluateSpec]
    total: int
    done: int = field(default=0)

    def __call__(self, more: int) -> None:
        self.done += more
        self.job.progress("evaluate", self.done, self.total, "pictures")


def run(spec: EvaluateSpec, job: JobContext[EvaluateSpec]) -> JobResult:
    """Measure, judge and write the page."""
    started = time.monotonic()
    section = spec.config
    manifest = open_bundle(job.store, spec.engine).meta
    engine = open_engine(job.store, spec.engine, spec.trust, manifest["backend"], text_encoder=spec.text_encoder)
    pictures = Pictures(job.store, spec.dataset, spec.image_size, job.folder / "cache")
    samples = pictures.holdout(section.images)
    photographs = pictures.photographs(section.photos)
    known = pictures.training(_KNOWN_BYTES // (4 * spec.image_size**2)) if samples else []
    columns = 3 if spec.stage1 is not None and section.segmenter_steps else 2
    counter = _Counter(job, columns * len(samples) + len(photographs) * section.photo_captions)

    student = compare.Way(section.student_steps, section.guidance, student=True)
    shift = shift_of(job.store, spec.teacher)
    teacher = compare.Way(section.teacher_steps, section.guidance, student=False, shift=shift)
    made, scores = _on_catalogue(spec, job, engine, known, samples, {"student": student, "teacher": teacher}, counter)
    learning = partial(job.progress, "segmenter")
    expansion = expansions.measure(
        made, samples, known, engine, steps=section.segmenter_steps, seed=spec.seed, progress=learning
    )
    answers = _on_photographs(spec, engine, photographs, student, counter)
    identity = _identity(samples, made, answers)
    engine.close()

    means = compare.means_of(scores)
    photo_numbers = summarise([answer.score for answer in answers])
    parity = [ParityRow(**row) for row in manifest["parity"]]
    bad = worst(parity)
    checks = judge(
        means,
        identity,
        photo_numbers,
        {
            "worst_relative_l2": bad.relative_l2,
            "tolerance": manifest["tolerance"],
            "worst": f"{bad.graph} at {bad.shape}",
        },
        expansion,
        section,
    )
    findings = Findings(
        samples=samples, made=made, scores=scores, means=means, answers=answers, photo_numbers=photo_numbers,
        checks=checks, manifest=manifest, student=student, teacher=teacher, expansion=expansion,
    )  # fmt: skip
    page = render(build_report(spec, job.store, findings))
    report = f"{job.output}/report.html"
    job.note_shown(report, shown_in_report(spec, job.store, findings))
    job.store.put(report, page.encode())
    metrics = {
        "means": means,
        "photographs": photo_numbers,
        "product_identity": identity,
        "expansion": expansion.as_dict(),
        "latency_ms": manifest["latency_ms"],
        "forwards": {compare.ENGINE: student.forwards, compare.TEACHER: teacher.forwards},
        "samples": len(samples),
    }
    job.metrics(_flat(means.get(compare.ENGINE, {}), photo_numbers), 0)
    return JobResult(
        metadata={
            "backend": engine.backend,
            "held_out": len(samples),
            "photographs": len(photographs),
            **{name: round(value, 4) for name, value in means.get(compare.ENGINE, {}).items()},
            "failed": ", ".join(check.name for check in checks if not check.passed) or "none",
            "seconds": round(time.monotonic() - started, 1),
        },
        files={"report": report, "metrics": job.put_json("metrics", metrics)},
        data={"metrics": metrics, "passed": passed(checks)},
        checks=checks,
    )


def passed(checks: Sequence[Check]) -> bool:
    """Whether the engine may become champion: every check that gates has passed."""
    return all(check.passed for check in checks if check.severity == "error")


def _on_catalogue(
    spec: EvaluateSpec,
    job: JobContext[EvaluateSpec],
    engine: GraphEngine,
    known: list[Sample],
    samples: list[Sample],
    ways: Mapping[str, compare.Way],
    counter: _Counter,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Column → pictures, and column → scores. Both empty without held-out catalogue pictures.

    Stage 1 of the fine-tune is drawn for its expansion alone, and not scored.
    """
    if not samples:
        return {}, {}
    captions = [sample.caption for sample in samples]
    seeds = [compare.seed_of(spec.seed, sample.id) for sample in samples]
    # In the number format that it was trained in, which is also its faster form.
    autoencoder = load_model(job.store, spec.autoencoder)

    def opened(bundle: str) -> TorchParts:
        model = load_model(job.store, bundle)
        return TorchParts(autoencoder, model, engine.embed, spec.image_size, fast_dtype())

    size = spec.config.batch_size
    columns: list[tuple[str, Parts, compare.Way]] = [
        (compare.ENGINE, engine, ways["student"]),
        (compare.TEACHER, opened(spec.teacher), ways["teacher"]),
    ]
    made = {name: compare.generate(parts, way, samples, captions, seeds, size, counter) for name, parts, way in columns}
    job.log.info("filling the same pictures by the baselines")
    made |= compare.fill_by_baselines(samples, known, engine.embed)
    scores = compare.score_all(samples, made)
    if spec.stage1 is not None and spec.config.segmenter_steps:
        first = opened(spec.stage1)
        way = replace(ways["teacher"], shift=shift_of(job.store, spec.stage1))
        made[expansions.STAGE1] = compare.generate(first, way, samples, captions, seeds, size, counter)
    return made, scores


def shift_of(store: ObjectStore, bundle: str) -> float:
    """How the times were shifted that a teacher was trained at: it has to be sampled at the same."""
    return float(open_bundle(store, bundle).meta.get("shift", 1.0))


def _on_photographs(
    spec: EvaluateSpec, engine: GraphEngine, photographs: list[Sample], way: compare.Way, counter: _Counter
) -> list[PhotographAnswers]:
    """Every photograph with each of its captions. One photograph's captions share a seed: only the words differ."""
    asked = [(photo, requests_for(photo.id, spec.config.photo_captions)) for photo in photographs]
    rows = [photo for photo, requests in asked for _ in requests]
    if not rows:
        return []
    captions = [request.caption for _, requests in asked for request in requests]
    seeds = [compare.seed_of(spec.seed, photo.id) for photo in rows]
    generated = compare.generate(engine, way, rows, captions, seeds, spec.config.batch_size, counter)
    answers = []
    for index, (photo, requests) in enumerate(asked):
        mine = generated[index * len(requests) : (index + 1) * len(requests)]
        products = np.repeat(photo.product[None], len(mine), axis=0)
        composites = composite(np.repeat(photo.image[None], len(mine), axis=0), mine, products)
        answers.append(
            PhotographAnswers(
                photo, requests, composites, score_photograph(photo.image, photo.product, mine, composites, requests)
            )
        )
    return answers


def _identity(
    samples: list[Sample], made: Mapping[str, np.ndarray], answers: Sequence[PhotographAnswers]
) -> float | None:
    """Share of all composites whose product is the input's, catalogue and photographs together."""
    shares = [(compare.identity_share(samples, made[compare.ENGINE]), len(samples))] if samples else []
    shares += [(float(answer.score.identical), 1) for answer in answers]
    total = sum(count for _, count in shares)
    return sum(share * count for share, count in shares) / total if total else None


def _flat(*groups: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for group in groups for name, value in group.items() if np.isfinite(value)}
