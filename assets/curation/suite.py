"""The Great Expectations suite over a delivery's metadata, one row per file; its results are the asset's checks.

Batches of metadata are validated, never single images. The names below are static: the asset declares its checks by
them without importing Great Expectations, which takes eight seconds.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from infra.jobs.spec import Check

_FORMATS = ["jpeg", "png", "webp", "gif", "tiff", "bmp"]


@dataclass(frozen=True)
class _Expectation:
    """A named expectation: on all files or on the kept ones, how bad a failure is, and how it is built."""

    name: str
    rows: Literal["all", "kept"]
    severity: Literal["error", "warn"]
    build: Callable[[Any, dict[str, float]], Any]  # (great_expectations.expectations, limits) → expectation


_SUITE = (
    _Expectation("something_is_kept", "kept", "error", lambda e, n: e.ExpectTableRowCountToBeBetween(min_value=1)),
    _Expectation("ids_are_unique", "kept", "error", lambda e, n: e.ExpectColumnValuesToBeUnique(column="id")),
    _Expectation(
        "ids_are_hashes",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToMatchRegex(column="id", regex="^[0-9a-f]{64}$"),
    ),
    _Expectation(
        "formats_are_known",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToBeInSet(column="format", value_set=_FORMATS),
    ),
    _Expectation(
        "sizes_are_in_range",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="short_side", min_value=n["min_size"]),
    ),
    _Expectation(
        "aspect_ratios_are_in_range",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="aspect", min_value=1, max_value=n["max_aspect"]),
    ),
    _Expectation(
        "captions_are_present",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="captions", min_value=1, mostly=0.95),
    ),
    _Expectation(
        "captions_are_of_sane_length",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="caption_length", max_value=1000, mostly=0.99),
    ),
    _Expectation(
        "licences_are_stated",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToNotBeInSet(column="licence", value_set=["", "unspecified"]),
    ),
    _Expectation(
        "masks_are_present",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeInSet(column="mask", value_set=[True], mostly=0.3),
    ),
    _Expectation(
        "most_files_decode",
        "all",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeInSet(column="decoded", value_set=[True], mostly=0.9),
    ),
    _Expectation(
        "most_files_are_kept",
        "all",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeInSet(column="kept", value_set=[True], mostly=0.5),
    ),
)

CHECKS = tuple(expectation.name for expectation in _SUITE)
"""Names of the checks, in order."""


def load_great_expectations() -> Any:
    """The package, with its telemetry off. Takes eight seconds the first time."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations

    return great_expectations


def validate(table: list[dict[str, Any]], *, min_size: int, max_aspect: float) -> list[Check]:
    """Hold the metadata (rows of `Batch.table`) against the suite; one Check per name in CHECKS, in that order."""
    gx = load_great_expectations()
    import pandas as pd

    # An ephemeral context: nothing is written anywhere, the results live in the asset's checks.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    frame = pd.DataFrame(table)
    source = context.data_sources.add_pandas("delivery")
    limits = {"min_size": float(min_size), "max_aspect": float(max_aspect)}
    checks: dict[str, Check] = {}
    for rows, part in (("all", frame), ("kept", frame[frame["kept"]])):
        definition = source.add_dataframe_asset(rows).add_batch_definition_whole_dataframe(rows)
        batch = definition.get_batch(batch_parameters={"dataframe": part})
        wanted = [expectation for expectation in _SUITE if expectation.rows == rows]
        suite = gx.ExpectationSuite(
            name=rows,
            expectations=[_named(one.build(gx.expectations, limits), one.name) for one in wanted],
        )
        results = batch.validate(suite, result_format="BASIC").results
        by_name = {result.expectation_config.meta["check"]: result for result in results}
        checks.update({one.name: _check(one, by_name[one.name]) for one in wanted})
    return [checks[name] for name in CHECKS]


def _named(expectation: Any, name: str) -> Any:
    expectation.meta = {"check": name}
    return expectation


def _check(expectation: _Expectation, result: Any) -> Check:
    found = result.result
    metadata = {
        name: found[name]
        for name in ("observed_value", "element_count", "unexpected_count", "unexpected_percent")
        if found.get(name) is not None
    }
    raised = (result.exception_info or {}).get("exception_message")
    if raised:
        metadata["error"] = str(raised)
    return Check(name=expectation.name, passed=bool(result.success), severity=expectation.severity, metadata=metadata)
