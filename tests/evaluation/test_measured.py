"""Numbers with keys: what was made differently is not compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.measured import Measured, comparable, reference_of
from infra.errors import BackdropError

NUMBER = Measured(1.5, "kid", "clip", "ab12", "224 × 224", 256, "cd34")


def test_numbers_made_alike_are_compared_whatever_their_value() -> None:
    comparable(replace(NUMBER, value=2.0), NUMBER)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("metric", "cmmd"),
        ("extractor", "dinov2"),
        ("weights", ""),
        ("preprocessing", "x"),
        ("n", 255),
        ("reference", ""),
    ],
)
def test_a_difference_in_any_field_is_an_error_that_names_it(field: str, other: object) -> None:
    changed = replace(NUMBER, **{field: other})  # type: ignore[arg-type]
    assert changed.key != NUMBER.key
    with pytest.raises(BackdropError, match="cannot be compared") as caught:
        comparable(NUMBER, changed)
    assert f"{field} {getattr(NUMBER, field)!r} and {other!r}" in str(caught.value)


def test_a_reference_is_a_set_of_pictures() -> None:
    assert reference_of(["a", "b"]) == reference_of(["b", "a"])
    assert reference_of(["a", "b"]) != reference_of(["a", "c"])
    assert reference_of(["ab"]) != reference_of(["a", "b"])
