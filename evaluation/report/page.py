"""What the report shows, as plain data, and its rendering. Pure: everything is read before it comes here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Metric:
    """One line of the comparison. `values`: column → number, None where it does not apply."""

    label: str
    help: str
    values: Mapping[str, float | None]
    bar: str = ""
    passed: bool | None = None
    percent: bool = True


@dataclass(frozen=True)
class CheckLine:
    """One check as it is shown: name, whether it passed, and the numbers in words."""

    name: str
    passed: bool
    gates: bool
    evidence: str


@dataclass(frozen=True)
class Example:
    """One held-out picture. `pictures`: (label, data URI), input to truth; `marks`: (what, right or wrong)."""

    caption: str
    pictures: Sequence[tuple[str, str]]
    marks: Sequence[tuple[str, bool]] = ()


@dataclass(frozen=True)
class Answer:
    """One caption's picture of a photograph: whether its border has the colour asked for, and the one it has."""

    caption: str
    picture: str
    matched: bool
    seen: str


@dataclass(frozen=True)
class Photograph:
    name: str
    picture: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Curve:
    """One stage's training curve; `chart` is inline SVG, `notes` its numbers (steps, speed, seconds)."""

    asset: str
    chart: str
    legend: Sequence[str]
    notes: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Delivery:
    """What became of one delivery. `funnel`: (stage, pictures left, why others went)."""

    name: str
    arrived: int
    kept: int
    funnel: Sequence[tuple[str, int]]
    pictures: Sequence[tuple[str, str]] = ()
    truth: Rows = ()
    truth_note: str = ""
    unsure: Sequence[str] = ()


@dataclass(frozen=True)
class Origin:
    """One link of the lineage: asset → data version → bundle."""

    asset: str
    data_version: str
    bundle: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    title: str
    facts: Sequence[tuple[str, str]]
    backend: str
    columns: Sequence[str]
    metrics: Sequence[Metric]
    checks: Sequence[CheckLine]
    tiles: Sequence[tuple[str, str, str]]
    examples: Sequence[Example] = ()
    photographs: Sequence[Photograph] = ()
    photographs_note: str = ""
    expansion: Rows = ()
    expansion_note: str = ""
    features: Rows = ()
    features_note: str = ""
    latency: Rows = ()
    parity: Rows = ()
    engine_notes: Sequence[tuple[str, str]] = ()
    curves: Sequence[Curve] = ()
    deliveries: Sequence[Delivery] = ()
    lineage: Sequence[Origin] = field(default=())

    @property
    def failed(self) -> list[CheckLine]:
        return [check for check in self.checks if not check.passed]

    @property
    def blocked(self) -> bool:
        """Whether a failed check keeps the engine from becoming champion."""
        return any(check.gates for check in self.failed)


def render(report: Report) -> str:
    """The whole page: one HTML file, no request, no script."""
    return template("template.html.j2").render(report=report)


@lru_cache(maxsize=4)
def template(name: str) -> Template:
    """A page's template, of this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["share"] = lambda part, whole: 100.0 * part / whole if whole else 0.0
    return environment.get_template(name)
