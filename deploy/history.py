"""What the line's earlier jobs left, as the report shows it: curves, deliveries, lineage."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evaluation.report.figures import line_chart, png
from evaluation.report.page import Curve, Delivery, Origin
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore

log = logging.getLogger(__name__)

#: A backend's name in a manifest → what people call it.
BACKENDS = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
LOSSES = ("loss", "anchor", "split", "l1", "edges", "kl")
NOTES = ("steps", "images_per_second", "seconds", "final_loss", "psnr_db", "precision")
#: A picture that the page draws itself, readable on a phone and in the dark.
REDRAWN = "Funnel"
BUNDLES = ("model", "engine", "latents")


def results_of(store: ObjectStore, keys: Mapping[str, str]) -> Iterator[tuple[str, str, JobResult]]:
    """(name, key, result) of each job whose result is still there; a missing one is named in the log."""
    for name, key in keys.items():
        if store.exists(key):
            yield name, key, JobResult.model_validate_json(store.get(key))
        else:
            log.warning("the report leaves out %s: its result %s is gone", name, key)


def curves_of(store: ObjectStore, stages: Mapping[str, str]) -> list[Curve]:
    """One chart per stage that left a curve."""
    curves = []
    for asset, _, result in results_of(store, stages):
        key = result.files.get("curve")
        if key is None or not store.exists(key):
            continue
        series = series_of(json.loads(store.get(key)))
        chart = line_chart(series)
        if chart:
            curves.append(Curve(asset, chart, list(series), notes_of(result.metadata)))
    return curves


def notes_of(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers worth a look; a stage of two parts names them `<part>_<number>`."""
    return [
        (key.replace("_", " "), _short(value))
        for note in NOTES
        for key, value in metadata.items()
        if key == note or (key.endswith(f"_{note}") and not key.startswith("trained"))
    ]


def series_of(curve: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Loss → (step, value) points, from the rows {"step": 1, "loss": …} that the recipes write."""
    series = {
        name: [(float(row["step"]), float(row[name])) for row in curve if isinstance(row.get(name), (int, float))]
        for name in LOSSES
    }
    return {name: points for name, points in series.items() if points}


def deliveries_of(store: ObjectStore, results: Mapping[str, str]) -> list[Delivery]:
    """One block per delivery: funnel, thumbnails of what was dropped, planted dirt against what was caught."""
    deliveries = []
    for name, _, result in results_of(store, results):
        funnel = result.data.get("funnel") or []
        truth = result.data.get("truth") or {}
        deliveries.append(
            Delivery(
                name=name,
                arrived=int(funnel[0]["seen"]) if funnel else int(result.data.get("images", 0)),
                kept=int(funnel[-1]["left"]) if funnel else int(result.data.get("images", 0)),
                funnel=[(str(step["filter"]), int(step["dropped"])) for step in funnel if step["dropped"]],
                pictures=[
                    (title, png(store.get(key)))
                    for title, key in result.pictures.items()
                    if title != REDRAWN and store.exists(key)
                ],
                truth=truth_table(truth) if truth else [],
                unsure=[
                    f"{entry['uri'].rsplit('/', 1)[-1]} ({entry['confidence']:.2f})"
                    for entry in result.data.get("unsure_masks", [])
                ],
            )
        )
    return deliveries


def truth_table(truth: Mapping[str, Any]) -> list[list[str]]:
    """Rows of {"kinds": {kind: {"planted", "dropped", "by"}}, "clean": {"files", "dropped", "by"}} with a head."""
    rows = [["Kind", "files", "dropped", "share", "by which filter"]]
    for kind, counts in [*truth["kinds"].items(), ("clean", truth["clean"])]:
        files = counts["files"] if kind == "clean" else counts["planted"]
        share = f"{100 * counts['dropped'] / files:.1f} %" if files else "–"
        by = ", ".join(f"{name} {count}" for name, count in sorted(counts["by"].items())) or "–"
        rows.append([kind, str(files), str(counts["dropped"]), share, by])
    return rows


def lineage_of(store: ObjectStore, stages: Mapping[str, str], dataset: str) -> list[Origin]:
    """Asset → data version → bundle, in the line's order. The data version is the part of the path that names it."""
    chain = [Origin("training_set", dataset, "", "what every stage below was made from")]
    for asset, key, result in results_of(store, stages):
        bundle = next((str(result.data[name]) for name in BUNDLES if name in result.data), "")
        backend = BACKENDS.get(str(result.data.get("backend")))
        note = f"the name is the asset's; it runs on {backend}" if backend else ""
        chain.append(Origin(asset, key.rsplit("/", 2)[-2], bundle, note))
    return chain


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
