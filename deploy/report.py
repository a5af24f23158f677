"""Fill the report: findings of the evaluation, and what the line's earlier jobs left in the object store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from deploy import compare
from deploy.checks import ACCURACIES, bars, evidence
from deploy.expansion import STAGE1, TRUTH, Expansions
from deploy.history import BACKENDS, curves_of, deliveries_of, lineage_of, results_of
from deploy.model_card import energy_words, measured_words
from deploy.samples import Sample
from deploy.specs import EvaluateSpec
from evaluation.measured import Measured
from evaluation.metrics.energy import Energy
from evaluation.photographs import PhotographScore, Request
from evaluation.report.figures import cut_out, picture
from evaluation.report.page import Answer, CheckLine, Example, Metric, Photograph, Report
from infra.jobs.spec import Check
from infra.object_store import ObjectStore
from training.editing import composite

#: Metric → its line in the table, how it is measured, and its short name on a tile.
HELP = {
    "wall_colour": ("Wall colour as captioned", "nearest of twelve named colours to the wall's median", "Wall colour"),
    "floor_colour": ("Floor colour as captioned", "the same on the floor", "Floor colour"),
    "floor_line": ("Floor line where it belongs", "within 6 % of the picture's height", "Floor line"),
    "shadow_side": ("Shadow on the true side", "the darker side of the floor beside the product", "Shadow side"),
    "masked_l1": ("Error over the background", "mean absolute difference to the true picture; less is better", "Error"),
}

FEATURES_NOTE = (
    "How far the pictures lie from the true ones. Two such numbers can be compared only where extractor, weights, "
    "preprocessing, number of pictures and reference are the same."
)


@dataclass(frozen=True)
class PhotographAnswers:
    """One photograph, what it was asked, and the composites that came back."""

    photo: Sample
    requests: Sequence[Request]
    composites: np.ndarray  # uint8 (K, S, S, 3)
    score: PhotographScore


@dataclass(frozen=True)
class Findings:
    """All that the evaluation measured. `made` and `scores` are by column; empty without held-out pictures."""

    samples: Sequence[Sample]
    made: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, Any]]
    means: Mapping[str, Mapping[str, float]]
    answers: Sequence[PhotographAnswers]
    photo_numbers: Mapping[str, float]
    checks: Sequence[Check]
    manifest: Mapping[str, Any]
    student: compare.Way
    teacher: compare.Way
    expansion: Expansions
    judged: Mapping[str, Mapping[str, Any]]
    apart: Mapping[str, Measured]
    energy: Energy


def build_report(spec: EvaluateSpec, store: ObjectStore, found: Findings) -> Report:
    """The page's data. Whatever an earlier job did not leave is left out."""
    manifest = found.manifest
    backend = f"{BACKENDS[manifest['backend']]} {manifest['backend_version']}"
    return Report(
        title="Backdrop: what this engine can do",
        backend=backend,
        facts=[
            *_against(found.checks),
            ("Dataset version", spec.dataset[:16]),
            ("Preset", spec.preset or "–"),
            ("Picture size", f"{spec.image_size} px"),
            ("Engine", spec.engine[:16]),
            ("Made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ],
        columns=list(_columns(found).values()),
        metrics=_metrics(spec, found),
        checks=[CheckLine(c.name, c.passed, c.severity == "error", evidence(c.metadata)) for c in found.checks],
        tiles=_tiles(found),
        examples=_examples(found, spec.config.examples),
        photographs=[_photograph(answer) for answer in found.answers],
        photographs_note=_photographs_note(found.photo_numbers),
        expansion=_expansion(found.expansion),
        expansion_note=_expansion_note(found.expansion),
        features=_features(found),
        features_note=FEATURES_NOTE,
        latency=_latency(manifest),
        parity=_parity(manifest),
        engine_notes=[*_engine_notes(manifest), ("Energy per picture", energy_words(found.energy.as_dict()))],
        curves=curves_of(store, spec.stage_results),
        deliveries=deliveries_of(store, spec.delivery_results),
        lineage=lineage_of(store, spec.stage_results, spec.dataset),
    )


def _against(checks: Sequence[Check]) -> list[tuple[str, str]]:
    return [
        (label, str(c.metadata[name]))
        for c in checks
        for label, name in (("Against the champion", "reason"), ("Left out", "left_out"))
        if c.metadata.get(name) and "reason" in c.metadata
    ]


def shown_in_report(spec: EvaluateSpec, store: ObjectStore, found: Findings) -> set[str]:
    """Ids of the delivered images that the page shows, those in the deliveries' own pictures included."""
    ids = {sample.id for sample in _chosen(found, spec.config.examples)}
    ids |= {answer.photo.id for answer in found.answers}
    for _, _, result in results_of(store, spec.delivery_results):
        ids.update(*(result.shows.get(key, ()) for key in result.pictures.values()))
    return ids


def _columns(found: Findings) -> dict[str, str]:
    """Column → its head; what follows the first comma is small print."""
    names = {
        compare.ENGINE: f"Engine, {found.student.steps} steps, {found.student.forwards} forwards",
        compare.TEACHER: f"Teacher, {found.teacher.steps} steps, {found.teacher.forwards} forwards",
        **{name: name[0].upper() + name[1:] for name in compare.BASELINES},
    }
    return {name: label for name, label in names.items() if name in found.means}


def _metrics(spec: EvaluateSpec, found: Findings) -> list[Metric]:
    if not found.means:
        return []
    columns, least = _columns(found), bars(spec.config)
    passed = {check.name: check.passed for check in found.checks}
    lines = [
        Metric(
            label=HELP[name][0],
            help=HELP[name][1],
            values={label: _known(found.means[column][name]) for column, label in columns.items()},
            bar=f"≥ {100 * least[name]:.0f} %",
            passed=passed[name],
        )
        for name in ACCURACIES
    ]
    label, explained, _ = HELP["masked_l1"]
    errors = {shown: found.means[column]["masked_l1"] for column, shown in columns.items()}
    return [
        *lines,
        Metric(label, explained, errors, bar="< baselines", passed=passed["beats_baselines"], percent=False),
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _tiles(found: Findings) -> list[tuple[str, str, str]]:
    tiles = []
    if found.means:
        ours = found.means[compare.ENGINE]
        count = f"of {len(found.samples)} held-out pictures"
        tiles = [(HELP[name][2], f"{100 * ours[name]:.1f} %", count) for name in ACCURACIES]
    if found.photo_numbers.get("photographs"):
        numbers = found.photo_numbers
        shown = f"{numbers['answers']:.0f} answers to {numbers['photographs']:.0f} photographs"
        tiles.append(("Photographs", f"{100 * numbers['border_colour']:.1f} %", shown))
    identity = next((c.metadata.get("identical") for c in found.checks if c.name == "product_identity"), None)
    if identity is not None:
        tiles.append(("Product kept", f"{100 * identity:.0f} %", "every pixel equal after compositing"))
    name, numbers = next(iter(found.manifest["latency_ms"].items()))
    tiles.append(("Answer in", f"{numbers['p50']:.1f} ms", f"median, {name}, on this machine"))
    return tiles


def _examples(found: Findings, count: int) -> list[Example]:
    if not found.samples:
        return []
    ours = found.scores[compare.ENGINE]
    examples = []
    for index in _spread(len(found.samples), count):
        sample, generated = found.samples[index], found.made[compare.ENGINE][index]
        whole = composite(sample.image[None], generated[None], sample.product[None])[0]
        pictures = [
            ("product", cut_out(sample.image, sample.product)),
            ("generated", generated),
            ("composite", whole),
            ("truth", sample.image),
        ]
        marks = [
            (name.replace("_", " "), bool(ours[name][index] == 1))
            for name in ACCURACIES
            if not np.isnan(ours[name][index])
        ]
        examples.append(Example(sample.caption, [(label, picture(image)) for label, image in pictures], marks))
    return examples


def _chosen(found: Findings, count: int) -> list[Sample]:
    return [found.samples[index] for index in _spread(len(found.samples), count)]


def _spread(number: int, count: int) -> list[int]:
    """Up to `count` places spread evenly over `number`."""
    return [int(place) for place in np.linspace(0, number - 1, min(count, number)).round()] if number else []


def _photograph(answer: PhotographAnswers) -> Photograph:
    name = str(answer.photo.source).rsplit("/", 1)[-1] or answer.photo.id[:12]
    answers = [
        Answer(request.caption, picture(image), matched, seen or "covered by the product")
        for request, image, matched, seen in zip(
            answer.requests, answer.composites, answer.score.matched, answer.score.seen, strict=True
        )
    ]
    return Photograph(name, picture(answer.photo.image), answers)


def _photographs_note(numbers: Mapping[str, float]) -> str:
    if not numbers.get("photographs"):
        return ""
    return (
        f"{numbers['photographs']:.0f} real photographs with a confident product mask, each asked for several colours "
        f"with one seed. The colour along the border is the one named in {100 * numbers['border_colour']:.1f} % of "
        f"{numbers['answers']:.0f} answers; a red frame marks the others."
    )


def _expansion(found: Expansions) -> list[list[str]]:
    """One row per column that was measured."""
    names = {
        STAGE1: "Teacher after stage 1, random masks",
        compare.TEACHER: "Teacher after stage 2, product masks",
        compare.ENGINE: "Engine",
        TRUTH: "The true pictures, encoded and decoded: the error of the measurement",
    }
    rows = [[label, f"{100 * found.means[name]:.1f} %"] for name, label in names.items() if name in found.means]
    return [["Before compositing", "Mean expansion"], *rows] if rows else []


def _expansion_note(found: Expansions) -> str:
    if not found.means:
        return f"Not measured: {found.why}." if found.why else ""
    note = (
        "Product area that was painted beyond the product's mask, over the mask's area. Products are found by a small "
        f"segmenter with an IoU of {found.iou:.3f} on held-out pictures. "
    )
    if found.stages is None:
        return f"{note}The stages are not compared: {found.why}."
    gap, share = found.stages.difference, found.stages.share
    if share is None:
        return f"{note}Stage 1 never paints beyond the mask: there is nothing to compare with."
    return (
        f"{note}Stage 2 has {100 * share:.0f} % of stage 1's expansion on the same "
        f"{found.stages.pictures} pictures, captions and seeds (difference {100 * gap.mean:.1f} points, "
        f"paired 95 % interval {100 * gap.low:.1f} to {100 * gap.high:.1f})."
    )


def _features(found: Findings) -> list[list[str]]:
    """One row per number of the extractor, with all that it was made of."""
    rows = [
        [name, f"{one['mean']:.4g}", str(one["n"]), measured_words(one)]
        for name, one in found.judged.items()
        if "extractor" in one
    ]
    rows += [
        [name.upper(), f"{one.value:.4g}", str(one.n), measured_words(one.as_dict())]
        for name, one in found.apart.items()
    ]
    return [["Of the composites", "Value", "Pictures", "Measured by"], *rows] if rows else []


def _latency(manifest: Mapping[str, Any]) -> list[list[str]]:
    rows = [["Milliseconds", "p50", "p95", "per picture"]]
    for name, numbers in manifest["latency_ms"].items():
        label = "one caption's embedding" if name == "caption" else f"{name}, {manifest['latency_steps']} steps"
        per_picture = f"{numbers['per_picture']:.1f}" if "per_picture" in numbers else "–"
        rows.append([label, f"{numbers['p50']:.1f}", f"{numbers['p95']:.1f}", per_picture])
    return rows


def _parity(manifest: Mapping[str, Any]) -> list[list[str]]:
    """One row per shape, one column per graph."""
    graphs = list(dict.fromkeys(row["graph"] for row in manifest["parity"]))
    by_shape: dict[str, dict[str, str]] = {}
    for row in manifest["parity"]:
        shape = str(row["shape"]).partition(",")[0]
        by_shape.setdefault(shape, {})[row["graph"]] = f"{row['relative_l2']:.1e}"
    cells = [[shape, *(errors.get(graph, "–") for graph in graphs)] for shape, errors in by_shape.items()]
    return [["Batch × height × width", *graphs], *cells]


def _engine_notes(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    made_with = manifest["producers"]
    return [
        ("Backend", f"{BACKENDS[manifest['backend']]} {manifest['backend_version']}"),
        ("Precision", manifest["precision"]["format"]),
        ("Largest error allowed", f"{manifest['tolerance']:.0e} relative L2"),
        ("ONNX opset", str(manifest["opset"])),
        ("Exported by", f"torch {made_with['torch']}"),
        ("Text encoder", f"{manifest['text_encoder']['runs_on']}, {manifest['text_encoder']['sha256'][:12]}"),
    ]
