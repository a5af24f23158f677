"""What the page about a delivery shows, as plain data, and its rendering. Pure: all is read before it comes here.

Pictures are not in the page but beside it, linked by name, so that a takedown can delete them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from infra.jobs.spec import Check

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Picture:
    """A thumbnail by its name in `thumbs/` and what is written below it. `tone`: "good", "bad" or ""."""

    thumb: str
    label: str
    name: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Chart:
    """The scores of one measure with the line drawn in, and the pictures closest to that line on both sides."""

    title: str
    svg: str
    rule: str = ""
    failed: Sequence[Picture] = ()
    passed: Sequence[Picture] = ()


@dataclass(frozen=True)
class FilterCard:
    """One filter. `reasons`: (reason, pictures) it dropped first."""

    name: str
    judged: int
    dropped: int
    others: Sequence[tuple[str, int]] = ()
    reasons: Sequence[tuple[str, int]] = ()
    charts: Sequence[Chart] = ()
    examples: Sequence[Picture] = ()


@dataclass(frozen=True)
class Group:
    """A picture that stayed, and copies of it."""

    stayed: Picture
    copies: Sequence[Picture]
    count: int


@dataclass(frozen=True)
class Dirt:
    """One reason for quarantine. `examples`: (file name, what the decoder said)."""

    reason: str
    count: int
    size: str
    examples: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Fix:
    """Captions before and after; `after` is empty where none was left."""

    name: str
    before: Sequence[str]
    after: Sequence[str]


@dataclass(frozen=True)
class Shift:
    """One comparison with the earlier deliveries. `chart`: an SVG of both distributions."""

    name: str
    drifted: bool
    words: str
    chart: str = ""


@dataclass(frozen=True)
class DeliveryReport:
    """The page."""

    name: str
    facts: Sequence[tuple[str, str]]
    arrived: int
    kept: int
    tiles: Sequence[tuple[str, str, str]]
    funnel: Sequence[tuple[str, int, Sequence[tuple[str, int]]]]
    undecided: int
    checks: Sequence[Check]
    filters: Sequence[FilterCard]
    quiet: Sequence[str] = ()
    not_scored: Sequence[str] = ()
    groups: Sequence[Group] = ()
    group_count: int = 0
    near_count: int = 0
    semantic_count: int = 0
    dirt: Sequence[Dirt] = ()
    fixes: Sequence[Fix] = ()
    fix_count: int = 0
    emptied: Sequence[Fix] = ()
    emptied_count: int = 0
    masks: Sequence[tuple[str, int]] = ()
    sure: Sequence[Picture] = ()
    unsure: Sequence[Picture] = ()
    earlier: Sequence[str] = ()
    shifts: Sequence[Shift] = ()
    data_docs: str = ""
    thumbs: Collection[str] = field(default=())

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    @property
    def summary(self) -> str:
        """The whole page in a sentence."""
        if not self.arrived:
            return "Nothing was delivered."
        worst = sorted(self.funnel, key=lambda step: -step[1])[:3]
        why = ", ".join(f"{name} ({_share(count, self.arrived)})" for name, count, _ in worst)
        kept = f"{self.kept:,} of {self.arrived:,} pictures are kept ({_share(self.kept, self.arrived)})."
        return f"{kept} Most were dropped by: {why}." if why else kept


def render(report: DeliveryReport) -> str:
    """The page as HTML: no script, and no request but for the thumbnails beside it."""
    return _template().render(report=report, labels=_LABELS)


_LABELS: Mapping[str, str] = {
    "observed_value": "rows",
    "element_count": "rows",
    "unexpected_count": "unexpected",
    "unexpected_percent": "% unexpected",
    "compared_with": "compared with",
    "chance_explains": "chance explains",
}


def _share(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    words = f"{share:.0f}" if share >= 10 or share == 0 else f"{share:.1f}"
    return f"{words}\N{NO-BREAK SPACE}%"


def _evidence(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    import evaluation.report.page

    # The second for its style sheet: one look for both pages.
    folders = [Path(__file__).parent, Path(evaluation.report.page.__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["of"] = _share
    environment.filters["width"] = lambda part, whole: round(100.0 * part / whole, 2) if whole else 0.0
    environment.filters["evidence"] = _evidence
    return environment.get_template("delivery.html.j2")
