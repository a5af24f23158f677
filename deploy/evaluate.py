"""The verb `evaluate`: engine, teacher and baselines on pictures nothing was trained on, and the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from deploy import compare, contest, latency
from deploy import expansion as expansions
from deploy.against import Against, against_champion, gate_check, judged
from deploy.check_pictures import failures_of, with_pictures
from deploy.checks import judge
from deploy.engines.open import open_engine
from deploy.engines.protocol import GraphEngine
from deploy.failures import worst_answers
from deploy.model_card import FAILURES
from deploy.report import Findings, PhotographAnswers, build_report, shown_in_report
from deploy.rewarding import Rewarded, learn, watched
from deploy.samples import Pictures, Sample
from deploy.specs import EvaluateSpec
from evaluation.expansion import LEAST_IOU
from evaluation.features import TextScores, open_extractor
from evaluation.measure import HIGHER_IS_BETTER
from evaluation.metrics.energy import Energy
from evaluation.photographs import Request, requests_for, score_photograph, summarise
from evaluation.report.page import render
from infra.bundles import open_bundle
from infra.jobs.program import JobContext
from infra.jobs.spec import Check, JobResult
from infra.object_store import ObjectStore
from training.editing import Parts, composite
from training.models.io import load_model
from training.parts import TorchParts
from training.precision import fast_dtype
from training.presets.sections import EvaluateSection

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
    """Measure, judge and write the pages."""
    started = time.monotonic()
    section = spec.config
    contest.policy_of(section.gate, HIGHER_IS_BETTER)  # a margin of no metric is told before anything is measured
    manifest = open_bundle(job.store, spec.engine).meta
    engine = open_engine(job.store, spec.engine, spec.trust, manifest["backend"], text_encoder=spec.text_encoder)
    pictures = Pictures(job.store, spec.dataset, spec.image_size, job.folder / "cache")
    samples = pictures.holdout(section.images)
    asked = [(photo, requests_for(photo.id, section.photo_captions)) for photo in pictures.photographs(section.photos)]
    known = pictures.training(_KNOWN_BYTES // (4 * spec.image_size**2)) if samples else []
    tuples = contest.tuples_of(samples, asked, spec.seed)
    columns = 3 if spec.stage1 is not None and section.segmenter_steps else 2
    columns_of_gate = len(tuples) if spec.champion else 0
    counter = _Counter(job, columns * len(samples) + (len(tuples) - len(samples)) + columns_of_gate)

    student = compare.Way(section.student_steps, section.guidance, student=True)
    shift = shift_of(job.store, spec.teacher)
    teacher = compare.Way(section.teacher_steps, section.guidance, student=False, shift=shift)
    made, scores = _on_catalogue(spec, job, engine, known, samples, {"student": student, "teacher": teacher}, counter)
    segmenter = None
    if section.segmenter_steps and known:
        learning = partial(job.progress, "segmenter")
        segmenter = expansions.learn(known, engine, steps=section.segmenter_steps, seed=spec.seed, progress=learning)
    expansion = expansions.measure(segmenter, made, samples, engine, seed=spec.seed)
    drawn = _on_photographs(spec, engine, tuples, len(samples), student, counter)
    answers = answers_of(asked, drawn)
    identity = _identity(samples, made, answers)
    extractor = open_extractor(section.extractor, engine.encode, spec.autoencoder, spec.image_size)
    rewarded = learn(spec, job, engine, known, samples)
    judges = contest.Judges(
        extractor,
        segmenter if expansion.iou is not None and expansion.iou >= LEAST_IOU else None,
        rewarded.reward if rewarded is not None else None,
        extractor.scores if isinstance(extractor, TextScores) else None,
    )
    picking = watched(spec, engine, tuples, student, rewarded.reward, extractor) if rewarded is not None else None
    parts = [part for part in (made.get(compare.ENGINE), drawn) if part is not None]
    answered = np.concatenate(parts) if parts else None
    against = against_champion(spec, job, engine, tuples, student, answered, judges, counter)
    energy = _energy(engine, tuples, section)
    engine.close()

    means = compare.means_of(scores)
    photo_numbers = summarise([answer.score for answer in answers])
    checks = judge(means, identity, photo_numbers, manifest, expansion, section)
    checks.append(gate_check(against.decision))
    pictures_of, lines = _failures(job, tuples, answered, against.scores)
    found = failures_of(samples, made, scores, answers)
    checks = [with_pictures(job, check, found, pictures_of) for check in checks]
    numbers = judged(tuples, against.scores, extractor)
    findings = Findings(
        samples=samples, made=made, scores=scores, means=means, answers=answers, photo_numbers=photo_numbers,
        checks=checks, manifest=manifest, student=student, teacher=teacher, expansion=expansion,
        judged=numbers, apart=against.apart, energy=energy,
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
        "judged": numbers,
        "distances": {name: one.as_dict() for name, one in against.apart.items()},
        "guards": {name: one.as_dict() for name, one in against.guarded.items()},
        "energy": energy.as_dict(),
        "reward": {"accuracy": dict(rewarded.accuracy), "picking": picking} if rewarded is not None else None,
        "latency_ms": manifest["latency_ms"],
        "forwards": {compare.ENGINE: student.forwards, compare.TEACHER: teacher.forwards},
        "samples": len(samples),
    }
    job.metrics(_flat(means.get(compare.ENGINE, {}), photo_numbers), 0)
    decision = against.decision
    return JobResult(
        metadata={
            "backend": engine.backend,
            **({"fallback": engine.fallback} if engine.fallback else {}),
            "held_out": len(samples),
            "photographs": len(asked),
            **{name: round(value, 4) for name, value in means.get(compare.ENGINE, {}).items()},
            "failed": ", ".join(check.name for check in checks if not check.passed) or "none",
            **_picking(rewarded, picking),
            "gate": decision.reason if decision is not None else "there is no champion",
            "seconds": round(time.monotonic() - started, 1),
        },
        files={"report": report, "metrics": job.put_json("metrics", metrics), **_gate_page(job, against)},
        data={
            "metrics": metrics,
            "passed": passed(checks),
            "engine": spec.engine,
            "champion": spec.champion,
            "decision": decision.as_dict() if decision is not None else None,
            "failures": lines,
            "reward": rewarded.bundle if rewarded is not None else None,
        },
        pictures=pictures_of,
        checks=checks,
    )


def _energy(engine: GraphEngine, tuples: contest.Tuples, section: EvaluateSection) -> Energy:
    """Of a picture in a batch of the first tuples, all of one shape."""
    some = tuples.samples[: section.batch_size]
    if not some:
        return Energy(None, None, "not measured: there is nothing to ask")
    images, products = (np.stack([getattr(sample, name) for sample in some]) for name in ("image", "product"))
    return latency.energy(engine, images, products, tuples.captions[: len(some)], steps=section.student_steps)


def _picking(rewarded: Rewarded | None, picking: Mapping[str, Any] | None) -> dict[str, float]:
    """Numbers for the asset's page: how good the reward is, and what picking by it did to what it never saw."""
    found = {"reward_accuracy": round(rewarded.accuracy["all"], 4)} if rewarded and rewarded.accuracy else {}
    return found | ({"picking_gain": round(float(picking["gain"]), 4)} if picking else {})


def _gate_page(job: JobContext[EvaluateSpec], against: Against) -> dict[str, str]:
    if not against.page:
        return {}
    key = f"{job.output}/gate.html"
    job.note_shown(key, against.shown)
    job.store.put(key, against.page.encode())
    return {"gate": key}


def _failures(
    job: JobContext[EvaluateSpec], tuples: contest.Tuples, made: np.ndarray | None, scores: Mapping[str, np.ndarray]
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The worst answers as a picture, by its title, and in words."""
    worst_ones = None
    if made is not None:
        worst_ones = worst_answers(tuples.samples, tuples.captions, made, scores, contest.PRIMARY)
    if worst_ones is None:
        return {}, []
    return {FAILURES: job.put_png("failures", worst_ones.png, worst_ones.ids)}, worst_ones.lines


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
    second = open_bundle(job.store, spec.engine).meta["sources"].get("masked_decoder")
    decoder = load_model(job.store, second) if second else None  # a teacher is judged through the engine's decoder

    def opened(bundle: str) -> TorchParts:
        model = load_model(job.store, bundle)
        return TorchParts(autoencoder, model, engine.embed, spec.image_size, fast_dtype(), masked_decoder=decoder)

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
    spec: EvaluateSpec,
    engine: GraphEngine,
    tuples: contest.Tuples,
    first: int,
    way: compare.Way,
    counter: _Counter,
) -> np.ndarray | None:
    """uint8 (K, S, S, 3) before compositing for the tuples from `first` on: each photograph with each of its captions.

    One photograph's captions share a seed: only the words differ.
    """
    rows = tuples.samples[first:]
    if not rows:
        return None
    captions, seeds = tuples.captions[first:], tuples.seeds[first:]
    return compare.generate(engine, way, rows, captions, seeds, spec.config.batch_size, counter)


def answers_of(asked: Sequence[tuple[Sample, Sequence[Request]]], drawn: np.ndarray | None) -> list[PhotographAnswers]:
    """What was drawn (K, S, S, 3) for each photograph, and how it scores."""
    answers, start = [], 0
    for photo, requests in asked:
        if drawn is None:
            break
        mine = drawn[start : start + len(requests)]
        start += len(requests)
        products = np.repeat(photo.product[None], len(mine), axis=0)
        composites = composite(np.repeat(photo.image[None], len(mine), axis=0), mine, products)
        score = score_photograph(photo.image, photo.product, mine, composites, list(requests))
        answers.append(PhotographAnswers(photo, requests, composites, score))
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
