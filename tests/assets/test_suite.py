"""The Great Expectations suite: what it finds, the same in one chunk and in many, and its page that asks nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from assets.curation.report.data_docs import stand_alone
from assets.curation.suite import CHECKS, Validation, _chunks, validate
from infra.catalog.reporting import MetadataRow
from infra.jobs.spec import EXAMPLES
from infra.settings import REPOSITORY

pytestmark = pytest.mark.integration  # importing Great Expectations takes seconds


def row(number: int, **changes: object) -> MetadataRow:
    values = {
        "id": f"{number:064x}",
        "format": "jpeg",
        "short_side": 512,
        "aspect": 1.5,
        "captions": 1,
        "caption_length": 40,
        "licence": "cc0",
        "mask": True,
        "decoded": True,
        "kept": True,
        "sighting": 1000 + number,
    }
    return MetadataRow(**{**values, **changes})  # type: ignore[arg-type]


def held(rows: list[MetadataRow], chunk: int = 50) -> Validation:
    return validate(iter(rows), min_size=256, max_aspect=3.0, chunk=chunk)


def failed(found: Validation) -> set[str]:
    assert [check.name for check in found.checks] == list(CHECKS)
    return {check.name for check in found.checks if not check.passed}


def test_the_names_are_known_without_great_expectations() -> None:
    code = "import sys, assets.curation.suite as s; print(len(s.CHECKS), 'great_expectations' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(CHECKS)), "False"]


@pytest.mark.parametrize("chunk", [7, 1000])
def test_a_clean_delivery_passes_in_any_chunks(chunk: int) -> None:
    rows = [row(k) for k in range(90)] + [row(0, id=None, decoded=False, kept=False, format="") for _ in range(10)]
    found = held(rows, chunk)
    assert failed(found) == set()
    assert found.unexpected.keys() == {"most_files_decode", "most_files_are_kept"}
    numbers = {check.name: check.metadata for check in found.checks}
    assert numbers["something_is_kept"]["observed_value"] == 90
    assert numbers["most_files_decode"]["element_count"] == 100
    assert numbers["most_files_decode"]["unexpected_count"] == 10


@pytest.mark.parametrize("chunk", [10, 1000])
@pytest.mark.parametrize(
    ("changes", "at", "check"),
    [
        ({"id": "zz"}, [99], "ids_are_hashes"),
        ({"format": "psd"}, [5], "formats_are_known"),
        ({"short_side": 255}, [5], "sizes_are_in_range"),
        ({"aspect": 3.1}, [5], "aspect_ratios_are_in_range"),
        ({"captions": 0}, range(6), "captions_are_present"),
        ({"caption_length": 1001}, range(0, 20, 10), "captions_are_of_sane_length"),
        ({"licence": "unspecified"}, [50], "licences_are_stated"),
        ({"mask": False}, range(71), "masks_are_present"),
    ],
)
def test_each_expectation_finds_its_own(chunk: int, changes: dict[str, object], at: list[int], check: str) -> None:
    rows = [row(k, **changes) if k in at else row(k) for k in range(100)]
    found = held(rows, chunk)
    assert failed(found) == {check}
    (result,) = (one for one in found.checks if one.name == check)
    assert result.metadata["unexpected_count"] == len(at)
    assert {name: [one.sighting for one in rows] for name, rows in found.unexpected.items()} == {
        check: [1000 + k for k in list(at)[:EXAMPLES]]
    }


def test_a_row_says_what_was_found_there() -> None:
    rows = [row(0, short_side=1188), row(1, aspect=3.14159, licence=""), row(2), row(2, kept=False, sighting=7)]
    words = {name: [one.words for one in found] for name, found in held(rows).unexpected.items()}
    assert words == {
        "aspect_ratios_are_in_range": ["3.14 : 1"],
        "licences_are_stated": ['licence ""'],
        "most_files_are_kept": [""],  # the catalog knows why
    }
    small = held([row(0, short_side=188), row(1, caption_length=12345), row(2), row(2)]).unexpected
    assert [one.words for one in small["sizes_are_in_range"]] == ["188 px"]
    assert [one.words for one in small["captions_are_of_sane_length"]] == ["12,345 characters"]
    assert [one.words for one in small["ids_are_unique"]] == ["packed more than once"] * 2


def test_a_share_is_that_of_the_delivery_and_not_of_a_chunk() -> None:
    # Five without a caption in one chunk of ten is half of it, and five in a hundred may be.
    rows = [row(k, captions=0) if k < 5 else row(k) for k in range(100)]
    assert failed(held(rows, 10)) == set()


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_an_id_that_repeats_is_found_wherever_the_chunks_end(chunk: int) -> None:
    rows = [row(k) for k in (0, 1, 2, 3, 3, 4, 5)]
    assert failed(held(rows, chunk)) == {"ids_are_unique"}
    with pytest.raises(ValueError, match="in the order of their ids"):
        held([row(2), row(1)], chunk)


def test_nothing_delivered_and_nothing_kept() -> None:
    assert failed(held([])) == {"something_is_kept"}
    nothing = held([row(k, kept=False, decoded=False) for k in range(20)], 6)
    assert failed(nothing) == {"something_is_kept", "most_files_decode", "most_files_are_kept"}
    by_name = {check.name: check for check in nothing.checks}
    assert by_name["something_is_kept"].severity == "error"
    assert by_name["most_files_are_kept"].severity == "warn"


def test_rows_are_taken_a_chunk_at_a_time() -> None:
    taken = 0

    def rows() -> Iterator[MetadataRow]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield row(number)

    sizes = []
    for piece in _chunks(rows(), 10):
        sizes.append(len(piece))
        assert taken <= sum(sizes) + 1
    assert sizes == [10] * 10


def test_the_page_is_about_all_chunks_and_asks_nobody() -> None:
    rows = [row(k, short_side=100) if k % 10 == 0 else row(k) for k in range(100)]
    page = held(rows, 10).data_docs().decode()
    assert "10 unexpected values found" in page
    assert "of 100 total rows" in page
    assert not re.search(r"(?i)(src|href|action)\s*=\s*[\"']?(?!#|[\"']#)", page)
    assert not re.search(r"(?i)<(script|link|img|iframe|form)\b|url\(|@import", page)


def test_what_would_load_or_lead_away_is_cut() -> None:
    html = (
        '<head><link rel=x href="https://a"><script src="https://b">1</script></head><body onload="x()">'
        '<img src="https://c"/><a href="../../x.html">home</a><a href="#there">there</a></body>'
    )
    clean = stand_alone(html)
    assert "https:" not in clean
    assert "onload" not in clean
    assert '<a>home</a><a href="#there">there</a>' in clean
    assert clean.count("<style>") == 1
