"""From measurements to checks: a pure function. What fails here keeps an engine from becoming champion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from deploy.compare import BASELINES, ENGINE, TEACHER
from deploy.expansion import STAGE1, Expansions
from deploy.nodes import node_check
from deploy.parity import ParityRow, parity_check
from evaluation.expansion import LARGEST_SHARE
from infra.jobs.spec import Check
from training.presets.sections import EvaluateSection

ACCURACIES = ("wall_colour", "floor_colour", "floor_line", "shadow_side")

Means = Mapping[str, Mapping[str, float]]


def bars(section: EvaluateSection) -> dict[str, float]:
    """The least share for each accuracy."""
    return {
        "wall_colour": section.colour_bar,
        "floor_colour": section.colour_bar,
        "floor_line": section.floor_line_bar,
        "shadow_side": section.shadow_bar,
    }


def judge(
    means: Means,
    identity: float | None,
    photographs: Mapping[str, float],
    manifest: Mapping[str, Any],
    expansion: Expansions,
    section: EvaluateSection,
) -> list[Check]:
    """Every check of `deploy.specs.CHECKS` but the gate's, in that order.

    Args:
        means: column → metric → mean over the held-out catalogue; empty when the data set has none.
        identity: share of pictures whose product survived compositing; None when nothing was generated.
        photographs: what `evaluation.photographs.summarise` says.
        manifest: the engine's, which says how its outputs ("parity") and nodes ("nodes") compare with PyTorch's.
        expansion: how far products grow.
    """
    quality: Literal["error", "warn"] = "error" if section.enforce else "warn"
    checks = _on_catalogue(means, section, quality) if means else _unmeasured()
    checks.append(_on_expansion(expansion))
    checks.append(
        Check(name="product_identity", passed=identity == 1.0, metadata={"identical": identity})
        if identity is not None
        else _skipped("product_identity", "nothing was generated")
    )
    checks.append(_on_photographs(photographs, section, quality))
    exact = [parity_check([ParityRow(**row) for row in manifest["parity"]]), node_check(manifest["nodes"])]
    return checks + [check.model_copy(update={"metadata": _plain(check.metadata)}) for check in exact]


def _on_catalogue(means: Means, section: EvaluateSection, severity: Literal["error", "warn"]) -> list[Check]:
    ours, teacher = means[ENGINE], means[TEACHER]
    checks = [
        Check(name=name, passed=ours[name] >= bar, severity=severity, metadata={"share": ours[name], "bar": bar})
        for name, bar in bars(section).items()
    ]
    errors = {name: means[name]["masked_l1"] for name in BASELINES if name in means}
    checks.append(
        Check(
            name="beats_baselines",
            passed=bool(errors) and all(ours["masked_l1"] < error for error in errors.values()),
            severity=severity,
            metadata={"engine": ours["masked_l1"], **errors},
        )
    )
    behind = {name: 100 * (teacher[name] - ours[name]) for name in ACCURACIES}
    known = {name: points for name, points in behind.items() if not math.isnan(points)}
    checks.append(
        Check(
            name="student_within_margin",
            passed=all(points <= section.student_margin + 1e-9 for points in known.values()),
            severity=severity,
            metadata={
                "margin": section.student_margin,
                **{f"points_behind_{k}": round(v, 2) for k, v in known.items()},
            },
        )
    )
    return checks


def _on_expansion(found: Expansions) -> Check:
    """It judges how the teacher was fine-tuned and not whether this engine is a good one: it never gates."""
    if found.stages is None:
        return _skipped("object_expansion", found.why)
    stages = found.stages
    numbers = {
        "stage_1": found.means[STAGE1],
        "stage_2": found.means[TEACHER],
        "share": stages.share,
        "bar": LARGEST_SHARE,
        "difference_low": stages.difference.low,
        "difference_high": stages.difference.high,
        "segmenter_iou": found.iou,
    }
    return Check(name="object_expansion", passed=stages.passed, severity="warn", metadata=numbers)


def _on_photographs(found: Mapping[str, float], section: EvaluateSection, severity: Literal["error", "warn"]) -> Check:
    if not found.get("photographs"):
        return Check(name="photographs", passed=True, metadata={"note": "no photographs"})
    passed = found["border_colour"] >= section.photo_bar and found["different"] == 1.0 and found["identical"] == 1.0
    return Check(name="photographs", passed=passed, severity=severity, metadata={"bar": section.photo_bar, **found})


def _unmeasured() -> list[Check]:
    return [_skipped(name, "the data set holds no held-out catalogue pictures") for name in
            (*ACCURACIES, "beats_baselines", "student_within_margin")]  # fmt: skip


def _skipped(name: str, why: str) -> Check:
    """Nothing was measured: that proves nothing, and keeps nothing from going on."""
    return Check(name=name, passed=False, severity="warn", metadata={"note": why})


def evidence(metadata: Mapping[str, Any]) -> str:
    """A check's numbers as one readable line; tables are left to the page that draws them."""
    return " · ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in _plain(metadata).items())


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if not isinstance(value, (list, dict))}


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
