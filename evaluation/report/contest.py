"""The gate's page: champion beside challenger, the evidence for the decision, and the worst regressions first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.gate import Evidence
from evaluation.report.page import template

WIDTH, ROW, LABEL, PAD = 560.0, 26.0, 150.0, 14.0
_WIDEST = 3.0  # margins that the axis shows to either side


@dataclass(frozen=True)
class Case:
    """One tuple as both sides answered it. `pictures`: (label, data URI); `scores`: (metric, champion's, challenger's);
    `fall`: by how much the challenger is worse in the metric that is named, in that metric's margins.
    """

    caption: str
    pictures: Sequence[tuple[str, str]]
    scores: Sequence[tuple[str, float, float]]
    metric: str
    fall: float


@dataclass(frozen=True)
class Contest:
    """All that the page shows. `promote` is what the gate decided."""

    title: str
    promote: bool
    refused: bool
    reason: str
    facts: Sequence[tuple[str, str]]
    evidence: Sequence[Evidence]
    worst: Sequence[Case] = ()
    others: Sequence[Case] = ()


def render(contest: Contest) -> str:
    """The whole page: one HTML file, no request, no script."""
    return template("contest.html.j2").render(contest=contest, chart=intervals(contest.evidence))


def intervals(evidence: Sequence[Evidence]) -> str:
    """Each metric's gain and its 95 % interval as inline SVG, in units of its margin: left of the dashed line is worse
    than is allowed, right of the solid one is better.
    """
    if not evidence:
        return ""
    height = PAD * 2 + ROW * len(evidence)
    middle = LABEL + (WIDTH - LABEL - PAD) / 2
    unit = (WIDTH - LABEL - PAD) / 2 / _WIDEST

    def place(value: float, margin: float) -> float:
        share = value / margin if margin > 0 else float(np.sign(value)) * _WIDEST
        return middle + unit * float(np.clip(share, -_WIDEST, _WIDEST))

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="gain by metric">']
    for x, style in ((middle, ""), (middle - unit, ' stroke-dasharray="4 3"')):
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{PAD}" y2="{height - PAD}"{style}/>')
    for index, row in enumerate(evidence):
        y = PAD + ROW * (index + 0.5)
        low, high, gain = (place(value, row.margin) for value in (row.low, row.high, row.difference))
        kind = "good" if row.better else ("plain" if row.not_worse else "bad")
        name = row.metric.replace("_", " ")
        parts.append(f'<text x="{LABEL - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>')
        parts.append(f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{gain:.1f}" cy="{y:.1f}" r="4"/>')
    return "".join([*parts, "</svg>"])
