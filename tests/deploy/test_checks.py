"""From numbers to checks: what keeps an engine from becoming champion, and what does not."""

from __future__ import annotations

from dataclasses import replace

from deploy.checks import evidence, judge
from deploy.evaluate import passed
from deploy.expansion import Expansions
from deploy.nodes import NodeRow, summary
from deploy.specs import CHECKS
from evaluation.bootstrap import Interval
from evaluation.expansion import Comparison
from training.presets.sections import EvaluateSection

GOOD = {"wall_colour": 0.97, "floor_colour": 0.95, "floor_line": 0.9, "shadow_side": 0.85, "masked_l1": 0.07}
MEANS = {
    "engine": GOOD,
    "teacher": GOOD | {"wall_colour": 0.985},
    "mean colour": GOOD | {"masked_l1": 0.2},
    "nearest caption": GOOD | {"masked_l1": 0.09},
    "Telea": GOOD | {"masked_l1": 0.3},
}
PHOTOGRAPHS = {"photographs": 40.0, "answers": 160.0, "border_colour": 0.8, "different": 1.0, "identical": 1.0}
OUTPUT = {"graph": "trunk", "shape": "1 × 64 × 64", "relative_l2": 1e-6, "tolerance": 1e-4}
NODE = NodeRow("trunk", "linear_1", "Gemm", "1 × 64 × 64", 1e-6, 1e-6, False, "pytorch")
MANIFEST = {"parity": [OUTPUT], "nodes": summary([NODE], {"trunk": 1e-4})}
HALVED = Expansions(
    iou=0.96,
    means={"stage 1": 0.2, "teacher": 0.08},
    stages=Comparison(0.2, 0.08, Interval(-0.12, -0.14, -0.1), pictures=256),
)


def failed(
    means=MEANS, identity=1.0, photographs=PHOTOGRAPHS, manifest=MANIFEST, expansion=HALVED, **section
) -> set[str]:  # type: ignore[no-untyped-def]
    checks = judge(means, identity, photographs, manifest, expansion, EvaluateSection(**section))
    assert (*(check.name for check in checks), "gate") == CHECKS
    return {check.name for check in checks if not check.passed}


def test_a_good_engine_passes_everything() -> None:
    assert failed() == set()


def test_each_bar_is_its_own_check() -> None:
    for name in ("wall_colour", "floor_colour", "floor_line", "shadow_side"):
        low = {column: values | {name: 0.5} for column, values in MEANS.items()}
        assert failed(means=low) == {name}


def test_the_student_may_not_fall_behind_the_teacher() -> None:
    behind = MEANS | {"teacher": GOOD | {"floor_line": 0.9201}}
    assert failed(means=behind) == {"student_within_margin"}
    assert failed(means=behind, student_margin=3.0) == set()


def test_every_baseline_must_be_beaten() -> None:
    assert failed(means=MEANS | {"nearest caption": GOOD | {"masked_l1": 0.07}}) == {"beats_baselines"}
    assert failed(means={name: MEANS[name] for name in ("engine", "teacher")}) == {"beats_baselines"}


def test_one_changed_product_pixel_fails_whatever_the_preset() -> None:
    checks = judge(MEANS, 255 / 256, PHOTOGRAPHS, MANIFEST, HALVED, EvaluateSection(enforce=False))
    assert not passed(checks)


def test_a_preset_that_does_not_enforce_only_warns() -> None:
    bad = {column: dict.fromkeys(values, 0.0) for column, values in MEANS.items()}
    checks = judge(bad, 1.0, PHOTOGRAPHS, MANIFEST, HALVED, EvaluateSection(enforce=False))
    assert passed(checks)
    assert not all(check.passed for check in checks)


def test_photographs() -> None:
    assert failed(photographs={"photographs": 0.0}) == set()
    assert failed(photographs=PHOTOGRAPHS | {"border_colour": 0.59}) == {"photographs"}
    assert failed(photographs=PHOTOGRAPHS | {"different": 0.98}) == {"photographs"}


def test_expansion_warns_of_a_second_stage_that_did_not_halve_it_and_keeps_no_engine_back() -> None:
    more = Expansions(0.96, HALVED.means, Comparison(0.2, 0.11, Interval(-0.09, -0.1, -0.08), 256))
    unsure = Expansions(0.96, HALVED.means, Comparison(0.2, 0.08, Interval(-0.12, -0.3, 0.01), 256))
    for expansion in (more, unsure, Expansions(iou=0.8, why="the segmenter's held-out IoU is 0.800, below 0.95")):
        assert failed(expansion=expansion) == {"object_expansion"}
        assert passed(judge(MEANS, 1.0, PHOTOGRAPHS, MANIFEST, expansion, EvaluateSection()))


def test_an_inexact_engine_fails() -> None:
    assert failed(manifest=MANIFEST | {"parity": [OUTPUT, OUTPUT | {"relative_l2": 2e-4}]}) == {"engine_parity"}


def test_an_engine_with_a_bad_node_inside_is_not_promoted_whatever_the_preset() -> None:
    """Its outputs agree on the probes; a node of it does not, and other inputs may show it."""
    bad = MANIFEST | {"nodes": summary([NODE, replace(NODE, node="sin", relative_l2=0.02)], {"trunk": 1e-4})}
    assert failed(manifest=bad) == {"node_parity"}
    checks = judge(MEANS, 1.0, PHOTOGRAPHS, bad, HALVED, EvaluateSection(enforce=False))
    assert not passed(checks)
    (check,) = [one for one in checks if one.name == "node_parity"]
    assert evidence(check.metadata).startswith("worst sin (Gemm) of trunk")


def test_nothing_measured_proves_nothing_and_blocks_nothing() -> None:
    checks = judge({}, None, {"photographs": 0.0}, MANIFEST, Expansions(why="no pictures"), EvaluateSection())
    assert passed(checks)
    assert sum(not check.passed for check in checks) == 8


def test_evidence_reads_as_words() -> None:
    assert evidence({"share": 0.97265625, "bar": 0.9, "table": [1]}) == "share 0.9727 · bar 0.9"
