"""Kubernetes quantities ("500m", "32Gi", 8) as exact numbers."""

from __future__ import annotations

import re
from fractions import Fraction

_SCALES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", 1)},
    **{letter + "i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]?|[KMGTPE]i))")


def quantity(text: str | int | float) -> Fraction:
    """The number; raises ValueError with Kubernetes' words."""
    match = _FORM.fullmatch(str(text))
    if match is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    number, exponent, suffix = match.groups()
    return Fraction(number) * (Fraction(10) ** int(exponent[1:]) if exponent else _SCALES[suffix or ""])
