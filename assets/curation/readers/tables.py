"""Tables about pictures (captions.jsonl, manifests in JSONL and parquet): read row by row into the spool."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any, BinaryIO

from assets.curation.readers.places import locate, shown
from assets.curation.readers.rows import COLUMNS, PLACES, clean, parse_json, parse_row
from assets.curation.readers.spool import Row, Spool
from infra.errors import BackdropError
from infra.uris import open_uri

CAPTIONS = "captions.jsonl"
TABLES = (CAPTIONS, "manifest.jsonl", "manifest.parquet")  # what later ones say wins over earlier ones
MANIFEST_SUFFIXES = (".jsonl", ".parquet")

_LONGEST = 16 << 20  # bytes of one line: a file without line ends must not fill the memory
_BATCH = 1024  # rows of parquet at a time


def load_table(uri: str, root: str, folder: str, spool: Spool, *, confined: bool) -> None:
    """Every row of the table `uri`, which lies in `folder` below `root`, into `spool`.

    A manifest says what the delivery is, so its bad row becomes a row with a `problem`. captions.jsonl only adds to
    pictures: there a bad row raises BackdropError naming the line. So does a table that cannot be read at all.
    """
    lenient = posixpath.basename(uri) != CAPTIONS
    unit, rows = ("row", _parquet_rows(uri)) if uri.lower().endswith(".parquet") else ("line", _json_lines(uri))
    table = shown(uri)
    for number, raw in rows:
        try:
            spool_row(raw, f"{table}, {unit} {number}", root, folder, spool, lenient, confined)
        except BackdropError as error:
            if not lenient:
                raise
            place = f"{uri}#{unit}={number}"
            spool.add_row(Row(place, place, {"captions": [], "attributes": {}, "problem": error.what}))


def spool_row(
    raw: bytes | dict[str, Any], where: str, root: str, folder: str, spool: Spool, lenient: bool, confined: bool
) -> None:
    """One row, JSON text or already an object, into the spool. Raises BackdropError naming `where`."""
    known = parse_json(raw, where) if isinstance(raw, bytes) else clean(raw)
    written, mask, row = parse_row(known, where, lenient)
    try:
        name, uri = locate(written, root, folder, confined)
        if mask:
            row["mask"], row["mask_uri"] = locate(mask, root, folder, confined)
    except ValueError as error:
        raise BackdropError(f"{where}: {error}", "give paths relative to the table's folder") from None
    if mask:
        spool.add_mask(row["mask"])
    spool.add_row(Row(name, uri, row | {"table": where}))


def _json_lines(uri: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of the lines that are not blank."""
    with open_uri(uri) as file:
        number = 0
        while line := file.readline(_LONGEST):
            number += 1
            if len(line) == _LONGEST and not line.endswith(b"\n"):
                _to_line_end(file)
                line = b"{a line of more than 16 MiB}"  # fails as JSON, under its own number
            if line.strip():
                yield number, line


def _to_line_end(file: BinaryIO) -> None:
    while (part := file.readline(_LONGEST)) and not part.endswith(b"\n"):
        pass


def _parquet_rows(uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, the known columns) of each row; pages are read as they are needed, other columns not at all."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise BackdropError(
            f"reading {shown(uri)} needs the package pyarrow, which is not installed", "pip install pyarrow"
        ) from error
    with open_uri(uri) as file:
        try:
            parquet = ParquetFile(file, buffer_size=1 << 18, pre_buffer=False)
            columns = [name for name in COLUMNS if name in parquet.schema_arrow.names]
            if not set(columns) & set(PLACES):
                raise BackdropError(
                    f"{shown(uri)} has no column uri, url or path; it has {', '.join(parquet.schema_arrow.names)}",
                    "name the column that says where each picture is 'uri'",
                )
            number = 0
            # Without threads: pyarrow's own would not survive the fork of a worker.
            for batch in parquet.iter_batches(_BATCH, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (ArrowException, OSError) as error:
            raise BackdropError(f"{shown(uri)} is not a whole parquet file ({error})", "write it again") from error
