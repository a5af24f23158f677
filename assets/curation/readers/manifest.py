"""A manifest given as the delivery: each row is a picture, wherever it lies; nothing else is looked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

from assets.curation.readers.items import Item
from assets.curation.readers.pictures import Draft, finish, merge_rows
from assets.curation.readers.places import shown
from assets.curation.readers.spool import Entry, Row, Spool
from assets.curation.readers.tables import load_table
from infra.errors import BackdropError
from infra.uris import path_of


def read_manifest(uri: str) -> Iterator[Item]:
    """One Item per picture that the .jsonl or .parquet file `uri` (file:// or s3://) names, sorted by place.

    Rows about one picture are one Item with all captions in the rows' order. A row that names none is an Item with a
    problem. Raises BackdropError when the manifest cannot be read or has no rows.
    """
    with Spool() as spool:
        load_table(uri, uri.rpartition("/")[0], "", spool, confined=False)
        nothing = True
        for _, _, rows in spool.names():
            item = finish(_draft(rows))
            if item is not None:
                nothing = False
                yield item
        if nothing:
            raise BackdropError(f"the manifest {shown(uri)} has no rows", "write a row per picture")


def _draft(rows: list[Row]) -> Draft:
    row, uri = merge_rows(rows), rows[0].uri
    return Draft(uri, None if "problem" in row else _looked_up(uri), row, mask_uri=row.get("mask_uri"))


def _looked_up(uri: str) -> Entry | None:
    """Size and time of a local file. A bucket is not asked: that would be a request per picture."""
    if not uri.startswith("file://"):
        return None
    try:
        found = os.stat(path_of(uri))
    except OSError:  # vanished: the one who reads it says so
        return None
    return Entry("", uri, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")
