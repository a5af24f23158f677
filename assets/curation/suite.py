"""The Great Expectations suite over a delivery's metadata, one row per picture; its results are the asset's checks.

Rows stream through in chunks: Great Expectations counts within a chunk, the counts are added up, and the sums decide.
So memory is that of a chunk, whatever the delivery. The names in CHECKS are static: the asset declares its checks by
them without importing Great Expectations, which takes eight seconds.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from infra.jobs.spec import EXAMPLES, Check

if TYPE_CHECKING:
    from infra.catalog.reporting import MetadataRow

CHUNK = 10_000
"""Rows per chunk: forty megabytes, and a tenth of a second of Great Expectations."""

_FORMATS = ["jpeg", "png", "webp", "gif", "tiff", "bmp"]
_EXAMPLES = 20


@dataclass(frozen=True)
class _Expectation:
    """A named expectation: on all pictures or on the kept ones, how bad a failure is, and how it is built.

    `words` say of a row that does not meet it what was found there; "" for what the catalog knows better.
    """

    name: str
    rows: Literal["all", "kept"]
    severity: Literal["error", "warn"]
    build: Callable[[Any, dict[str, float]], Any]  # (great_expectations.expectations, limits) → expectation
    words: str = ""  # of the column's value


_SUITE = (
    _Expectation("something_is_kept", "kept", "error", lambda e, n: e.ExpectTableRowCountToBeBetween(min_value=1)),
    _Expectation(
        "ids_are_unique",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToBeUnique(column="id"),
        "packed more than once",
    ),
    _Expectation(
        "ids_are_hashes",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToMatchRegex(column="id", regex="^[0-9a-f]{64}$"),
        "no SHA-256",
    ),
    _Expectation(
        "formats_are_known",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToBeInSet(column="format", value_set=_FORMATS),
        "{}",
    ),
    _Expectation(
        "sizes_are_in_range",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="short_side", min_value=n["min_size"]),
        "{:,.0f} px",
    ),
    _Expectation(
        "aspect_ratios_are_in_range",
        "kept",
        "error",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="aspect", min_value=1, max_value=n["max_aspect"]),
        "{:.2f} : 1",
    ),
    _Expectation(
        "captions_are_present",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="captions", min_value=1, mostly=0.95),
        "no caption",
    ),
    _Expectation(
        "captions_are_of_sane_length",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeBetween(column="caption_length", max_value=1000, mostly=0.99),
        "{:,.0f} characters",
    ),
    _Expectation(
        "licences_are_stated",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToNotBeInSet(column="licence", value_set=["", "unspecified"]),
        'licence "{}"',
    ),
    _Expectation(
        "masks_are_present",
        "kept",
        "warn",
        lambda e, n: e.ExpectColumnValuesToBeInSet(column="mask", value_set=[True], mostly=0.3),
        "no mask",
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


@dataclass(frozen=True)
class Unexpected:
    """A row that does not meet an expectation. `words`: what was found there; "" for why its file was dropped."""

    sighting: int
    words: str


@dataclass(frozen=True)
class Validation:
    """What came out: one Check per name in CHECKS, in that order, the first rows that failed each (none for one that
    all rows meet), and Great Expectations' own results.
    """

    checks: list[Check]
    unexpected: dict[str, list[Unexpected]]
    results: Any  # great_expectations' ExpectationSuiteValidationResult over the whole delivery

    def data_docs(self) -> bytes:
        """Great Expectations' page about these results as one HTML file that asks for nothing else."""
        from assets.curation.report.data_docs import page

        return page(self.results)


def load_great_expectations() -> Any:
    """The package, with its telemetry off. Takes eight seconds the first time."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations

    return great_expectations


def validate(
    rows: Iterable[MetadataRow], *, min_size: int, max_aspect: float, name: str = "delivery", chunk: int = CHUNK
) -> Validation:
    """Hold the metadata (`Catalog.metadata_rows`) against the suite.

    The kept rows come in the order of their ids, so that no id can repeat across chunks unseen; ValueError if not.
    """
    gx = load_great_expectations()
    import pandas as pd

    from infra.catalog.reporting import MetadataRow

    # An ephemeral context: nothing is written anywhere, the results live in the asset's checks.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas(name)
    limits = {"min_size": float(min_size), "max_aspect": float(max_aspect)}
    sums = {one.name: _Sum() for one in _SUITE}
    definitions, suites = {}, {}
    for part in ("all", "kept"):
        definitions[part] = source.add_dataframe_asset(part).add_batch_definition_whole_dataframe(part)
        wanted = [_built(one, gx.expectations, limits) for one in _SUITE if one.rows == part]
        suites[part] = gx.ExpectationSuite(name=part, expectations=wanted)
    batch = result = None
    for piece in _chunks(rows, chunk):
        frame = pd.DataFrame(piece, columns=list(MetadataRow._fields))
        frame["kept"] = frame["kept"].astype(bool)  # also without a row to tell the type by
        for part, table in (("all", frame), ("kept", frame[frame["kept"]])):
            batch = definitions[part].get_batch(batch_parameters={"dataframe": table})
            result = batch.validate(suites[part], result_format="BASIC")
            for one in result.results:
                sums[one.expectation_config.meta["check"]].add(one, table)
    assert result is not None  # there is at least one chunk, if an empty one
    _add_up(result, [sums[one] for one in CHECKS], name)
    unexpected = {one.name: [_unexpected(one, *row) for row in sums[one.name].failing] for one in _SUITE}
    checks = [_check(one, sums[one.name]) for one in _SUITE]
    return Validation(checks, {name: rows for name, rows in unexpected.items() if rows}, result)


def _built(one: _Expectation, expectations: Any, limits: dict[str, float]) -> Any:
    expectation = one.build(expectations, limits)
    expectation.meta = {"check": one.name}
    expectation.severity = "critical" if one.severity == "error" else "warning"
    return expectation


def _chunks(rows: Iterable[MetadataRow], size: int) -> Iterator[list[MetadataRow]]:
    """Chunks of about `size` rows that never part two kept rows of one id; one empty chunk where there is no row."""
    piece: list[MetadataRow] = []
    last, empty = "", True
    for row in rows:
        again = False
        if row.kept and row.id is not None:
            if row.id < last:
                raise ValueError(f"kept rows must come in the order of their ids, but {row.id} comes after {last}")
            again, last = row.id == last, row.id
        if len(piece) >= size and not again:
            yield piece
            piece, empty = [], False
        piece.append(row)
    if piece or empty:
        yield piece


@dataclass
class _Sum:
    """One expectation's counts over the chunks so far."""

    rows: int = 0
    missing: int = 0
    unexpected: int = 0
    examples: list[Any] = field(default_factory=list)
    failing: list[tuple[int, Any]] = field(default_factory=list)  # the first rows: (sighting, value)
    error: str = ""
    of_table: bool = False
    result: Any = None

    def add(self, one: Any, table: Any) -> None:
        """One chunk's result, and the rows that it is about."""
        found = one.result
        if found.get("unexpected_count") and (wanted := EXAMPLES - len(self.failing)) > 0:
            # What fails is told by its value alone, so the rows are those that hold one of the values that failed.
            values = table[one.expectation_config.kwargs["column"]]
            rows = values.isin(found["partial_unexpected_list"]).to_numpy().nonzero()[0][:wanted]
            self.failing += [(int(table["sighting"].iloc[row]), values.iloc[row]) for row in rows]
        self.result = one
        self.of_table = "observed_value" in found
        self.rows += int(found.get("observed_value", found.get("element_count", 0)) or 0)
        self.missing += int(found.get("missing_count", 0) or 0)
        self.unexpected += int(found.get("unexpected_count", 0) or 0)
        self.examples = [*self.examples, *found.get("partial_unexpected_list", ())][:_EXAMPLES]
        self.error = self.error or _raised(one.exception_info or {})

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def passed(self) -> bool:
        if self.error:
            return False
        wanted = self.result.expectation_config.kwargs
        if self.of_table:
            return bool(self.rows >= wanted.get("min_value", 0))
        return self.present == 0 or 1 - self.unexpected / self.present >= wanted.get("mostly", 1.0)

    def numbers(self) -> dict[str, Any]:
        """The sums under Great Expectations' names."""
        if self.of_table:
            return {"observed_value": self.rows}
        share = 100.0 * self.unexpected / self.present if self.present else 0.0
        return {
            "element_count": self.rows,
            "missing_count": self.missing,
            "missing_percent": 100.0 * self.missing / self.rows if self.rows else 0.0,
            "unexpected_count": self.unexpected,
            "unexpected_percent": share,
            "unexpected_percent_nonmissing": share,
            "unexpected_percent_total": 100.0 * self.unexpected / self.rows if self.rows else 0.0,
            "partial_unexpected_list": self.examples,
        }


def _raised(info: dict[str, Any]) -> str:
    """What an expectation died of: told flat, or by metric."""
    if info.get("exception_message"):
        return str(info["exception_message"])
    inner = [one for one in info.values() if isinstance(one, dict)]
    return next((str(one["exception_message"]) for one in inner if one.get("exception_message")), "")


def _add_up(result: Any, sums: list[_Sum], name: str) -> None:
    """Makes `result`, which is that of the last chunk, the result of the whole delivery."""
    for one in sums:
        one.result.result, one.result.success = one.numbers(), one.passed
    passed = sum(one.passed for one in sums)
    result.results = [one.result for one in sums]
    result.success = passed == len(sums)
    result.suite_name = name
    result.statistics = {
        "evaluated_expectations": len(sums),
        "successful_expectations": passed,
        "unsuccessful_expectations": len(sums) - passed,
        "success_percent": 100.0 * passed / len(sums),
    }


def _unexpected(expectation: _Expectation, sighting: int, value: Any) -> Unexpected:
    return Unexpected(sighting, expectation.words.format(value))


def _check(expectation: _Expectation, found: _Sum) -> Check:
    metadata = {name: value for name, value in found.numbers().items() if name in _SHOWN}
    if found.error:
        metadata["error"] = found.error
    return Check(name=expectation.name, passed=found.passed, severity=expectation.severity, metadata=metadata)


_SHOWN = ("observed_value", "element_count", "unexpected_count", "unexpected_percent")
