"""The numbers of a result as an asset's page plots them: one name for one thing on every page, and always numbers.

A recipe names its numbers as suits it (`product-masks_final_loss`); here they get the names under which they can be
compared from asset to asset and from run to run. What a result does not know has no number, and `unmeasured` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from infra.jobs.spec import JOULES, Check, JobResult

ROWS = "dagster/row_count"

_TRAINED = ("loss", "images_per_second", "seconds", "mfu", JOULES, "gpu_seconds", "gpu_cost")

#: Asset → the numbers of its page, in the order in which they are shown.
NUMBERS: dict[str, tuple[str, ...]] = {
    "raw_images": ("files", "without_caption", "problems", ROWS),
    "filtered_shards": (
        "images_kept", "images_dropped", "share_kept", "quarantined", "seconds", "images_per_second", ROWS,
    ),
    "training_set": ("images", "held_out", "slices", ROWS),
    "autoencoder": ("psnr_db", *_TRAINED),
    "latent_shards": ("images", "images_encoded", "images_reused", ROWS),
    "pretrained_dit": _TRAINED,
    "inpainting_finetune": _TRAINED,
    "distilled_model": _TRAINED,
    "tensorrt_engine": ("latency_p50_ms", "latency_p95_ms", "worst_relative_l2", "megabytes", "seconds"),
    "evaluation_report": (
        "adherence", "expansion", "product_identity", "wall_colour", "floor_colour", "floor_line", "shadow_side",
        "masked_l1", "reward_accuracy", "latency_p50_ms", "latency_p95_ms", "joules_per_image", "checks_failed",
        "held_out", "seconds",
    ),
    "promotion": ("model_version", "champion_version", "promoted", "checks_failed"),
    "personalized_model": _TRAINED,
}  # fmt: skip

_NO_CATALOGUE = "the data set holds no held-out catalogue pictures, whose truth is known"
_WHY = {
    "mfu": "the peak of this processor is not known; mfu_of_gemm compares with a matrix product timed on it",
    JOULES: "no GPU told its energy",
    "gpu_seconds": "GPU time is counted on a cluster",
    "gpu_cost": "GPU time is priced on a cluster whose price per GPU-hour is set",
    "loss": "nothing was trained, or the loss was not finite",
    "images_per_second": "nothing was trained",
    "champion_version": "there is no champion yet",
    "share_kept": "the delivery is empty",
    "reward_accuracy": "no reward was learned from so few pictures",
    "product_identity": "nothing was generated",
    "adherence": "nothing was generated",
    "expansion": "no segmenter was good enough to measure it",
    **dict.fromkeys(("wall_colour", "floor_colour", "floor_line", "shadow_side", "masked_l1"), _NO_CATALOGUE),
}


def numbers(asset: str, result: JobResult, cost: Mapping[str, float]) -> dict[str, int | float]:
    """The asset's numbers that are known, in the order of `NUMBERS`, then other numbers that its kind of result has.

    Args:
        cost: what `assets.costs.shown` says of the result.
    """
    said = {**result.metadata, **cost}
    known: dict[str, Any] = {**said, **_TAKEN.get(asset, _training)(result)}
    return {name: known[name] for name in NUMBERS.get(asset, ()) if _is_number(known.get(name))}


def unmeasured(asset: str, known: Mapping[str, Any], result: JobResult) -> str:
    """Why the asset's other numbers are not there, one sentence for each; empty where all are."""
    measured = result.data.get("metrics") or {}
    why = dict(_WHY)
    if note := (measured.get("expansion") or {}).get("note"):
        why["expansion"] = str(note)
    if source := (measured.get("energy") or {}).get("source"):
        why["joules_per_image"] = str(source).removeprefix("not measured: ")
    missing = [name for name in NUMBERS.get(asset, ()) if name not in known]
    return "; ".join(f"{name}: {why.get(name, 'the result does not say it')}" for name in missing)


def passes(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Pass → its numbers, of a training in several (`<pass>_<number>`); empty for one in a single pass."""
    names = [key.removesuffix("_final_loss") for key in metadata if key.endswith("_final_loss")]
    return {
        name: {key.removeprefix(f"{name}_"): value for key, value in metadata.items() if key.startswith(f"{name}_")}
        for name in names
    }


def details(asset: str, result: JobResult, known: Mapping[str, Any]) -> dict[str, Any]:
    """What else the result says, but for what is shown under another name or in the table of the passes."""
    hidden = {*known, *_RENAMED.get(asset, ()), "final_loss"}
    parts = tuple(f"{name}_" for name in passes(result.metadata))
    return {
        name: value
        for name, value in result.metadata.items()
        if name not in hidden and not (parts and name.startswith(parts)) and not _is_nan(value)
    }


def table_of_passes(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, a row for each pass in the order in which they ran."""
    head = ("pass", "steps", "loss", "images/s", "seconds", "trained parameters")
    keys = ("steps", "final_loss", "images_per_second", "seconds", "trained_parameters")
    rows = [(name, *(_short(part.get(key, "–")) for key in keys)) for name, part in parts.items()]
    return table(head, rows)


def table_of_funnel(funnel: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a row for each filter: short enough for Dagster to show it without a click (under 1,000 characters)."""
    rows = [(str(step["filter"]), f"{step['dropped']:,}", f"{step['left']:,}") for step in funnel]
    return table(("filter", "dropped", "left"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _training(result: JobResult) -> dict[str, Any]:
    """Over all passes: the loss of what was trained last, all seconds and joules, images and MFU over all of the time.

    Of an autoencoder with a second decoder the loss is the autoencoder's: the two are not of one kind.
    """
    said = result.metadata
    parts = [*([said] if "final_loss" in said else []), *passes(said).values()]
    if not parts:
        return {}
    seconds = sum(part.get("seconds", 0.0) for part in parts)

    def over_time(name: str) -> float | None:
        if not seconds or any(name not in part for part in parts):
            return None
        return round(sum(part[name] * part.get("seconds", 0.0) for part in parts) / seconds, 4)

    return {
        "loss": said.get("final_loss", parts[-1]["final_loss"]),
        "seconds": round(seconds, 1),
        **{name: over_time(name) for name in ("images_per_second", "mfu")},
        JOULES: round(result.joules, 1) if result.joules else None,
    }


def _listed(result: JobResult) -> dict[str, Any]:
    return {ROWS: result.metadata.get("files")}


def _filtered(result: JobResult) -> dict[str, Any]:
    files, kept = (result.metadata.get(name) for name in ("files", "kept"))
    if files is None or kept is None:
        return {}
    share = round(kept / files, 4) if files else None
    return {"images_kept": kept, "images_dropped": files - kept, "share_kept": share, ROWS: kept}


def _dataset(result: JobResult) -> dict[str, Any]:
    return {ROWS: sum(result.metadata.get(name, 0) for name in ("images", "held_out"))}


def _latents(result: JobResult) -> dict[str, Any]:
    said = result.metadata
    return {"images_encoded": said.get("encoded"), "images_reused": said.get("reused"), ROWS: said.get("images")}


def _engine(result: JobResult) -> dict[str, Any]:
    return _latency(result.data.get("latency_ms") or {})


def _evaluation(result: JobResult) -> dict[str, Any]:
    metrics = result.data.get("metrics") or {}
    judged, energy = metrics.get("judged") or {}, metrics.get("energy") or {}
    return {
        **{name: round(judged[name]["mean"], 4) for name in ("adherence", "expansion") if name in judged},
        "product_identity": metrics.get("product_identity"),
        **_latency(metrics.get("latency_ms") or {}),
        "joules_per_image": energy.get("joules"),
        "checks_failed": _failed(result.checks),
    }


def _promotion(result: JobResult) -> dict[str, Any]:
    said = result.metadata
    failed = [name for name in str(said.get("failed_checks", "none")).split(", ") if name != "none"]
    versions = {"model_version": said.get("model_version"), "champion_version": said.get("champion")}
    return {
        **{name: int(str(value)) for name, value in versions.items() if str(value).isdigit()},
        "promoted": int(bool(result.data.get("promoted"))),
        "checks_failed": len(failed),
    }


_TAKEN = {
    "raw_images": _listed,
    "filtered_shards": _filtered,
    "training_set": _dataset,
    "latent_shards": _latents,
    "tensorrt_engine": _engine,
    "evaluation_report": _evaluation,
    "promotion": _promotion,
}
#: What a page shows under another name.
_RENAMED: dict[str, set[str]] = {
    "filtered_shards": {"kept"},
    "latent_shards": {"encoded", "reused"},
    "tensorrt_engine": {"p50_ms_batch_1", "p95_ms_batch_1"},
    "promotion": {"model_version", "champion"},
}


def _latency(latency: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Of one picture, or of the smallest batch that was timed."""
    batches = {int(name.removeprefix("batch ")): one for name, one in latency.items() if name.startswith("batch ")}
    if not batches:
        return {}
    one = batches[min(batches)]
    return {"latency_p50_ms": one["p50"], "latency_p95_ms": one["p95"]}


def _failed(checks: Sequence[Check]) -> int:
    return sum(not check.passed for check in checks)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
