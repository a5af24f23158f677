"""One promise: a figure, its bar, and whether it is met."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """`at_least` tells on which side of the bar the figure should lie."""

    name: str
    figure: float
    bar: float
    unit: str = ""
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar

    def __str__(self) -> str:
        side, unit = ("at least" if self.at_least else "at most"), f" {self.unit}" if self.unit else ""
        verdict = "met" if self.met else "missed"
        return f"{self.name}: {self.figure:.4g}{unit} (bar {side} {self.bar:.4g}{unit}) {verdict}"
