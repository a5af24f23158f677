"""A number and everything that made it: two numbers that were not made alike cannot be compared.

A distance between features says nothing without the extractor, its weights, how pictures were brought to its size, how
many there were and what they were held against (Parmar et al. 2022, "On aliased resizing"): change one and the number
moves by more than models differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from hashlib import sha256

from infra.errors import BackdropError


@dataclass(frozen=True)
class Measured:
    """`weights` and `reference` are SHA-256; empty where there are none. `n` counts the pictures measured."""

    value: float
    metric: str
    extractor: str
    weights: str
    preprocessing: str
    n: int
    reference: str

    @property
    def key(self) -> tuple[str, str, str, str, int, str]:
        """All but the value."""
        return self.metric, self.extractor, self.weights, self.preprocessing, self.n, self.reference

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def comparable(a: Measured, b: Measured) -> None:
    """Nothing when two numbers were made alike.

    Raises:
        BackdropError: they were not; it names every field that differs and both its values.
    """
    names = [field.name for field in fields(Measured) if field.name != "value"]
    apart = [name for name, one, other in zip(names, a.key, b.key, strict=True) if one != other]
    if apart:
        shown = "; ".join(f"{name} {getattr(a, name)!r} and {getattr(b, name)!r}" for name in apart)
        raise BackdropError(
            f"two numbers for {a.metric} cannot be compared, they were made differently: {shown}",
            "measure both again, with one extractor, on the same pictures",
        )


def reference_of(identities: Iterable[str]) -> str:
    """SHA-256 of a set of pictures, by their ids; their order does not matter."""
    return sha256("\n".join(sorted(identities)).encode()).hexdigest()
