"""The listing and the table rows of one delivery in a temporary SQLite file: memory stays flat, order is by name.

Captions may stand anywhere in a delivery, so nothing can be said about its first picture before the listing is whole;
the listing is written down once and then streamed back, sorted, with what belongs to each picture beside it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from types import TracebackType
from typing import Any

from assets.curation.readers.items import MASK_SUFFIX, SIDE_SUFFIXES

_SCHEMA = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -2000;
    CREATE TABLE entries (name BLOB, at INTEGER, size INTEGER, etag TEXT, uri TEXT, data BLOB, PRIMARY KEY (name, at))
        WITHOUT ROWID;
    CREATE TABLE rows (name BLOB, n INTEGER, uri TEXT, row TEXT, PRIMARY KEY (name, n)) WITHOUT ROWID;
    CREATE TABLE tables (rank INTEGER, name BLOB, uri TEXT, PRIMARY KEY (rank, name)) WITHOUT ROWID;
    CREATE TABLE masks (name BLOB PRIMARY KEY) WITHOUT ROWID;
    BEGIN;
"""

_SIDES = (*SIDE_SUFFIXES, MASK_SUFFIX)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, an object or a tar's member."""

    name: str
    uri: str
    size: int | None
    etag: str = ""
    at: int = 0  # its offset in a tar: there a name may come twice
    data: bytes | None = None  # of a small member, kept while its tar passed by


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says about the picture `name`; `row` holds the keys that `tables.parse_row` gives."""

    name: str
    uri: str
    row: dict[str, Any]


class Spool:
    """Entries and rows in, one `(name, entries, rows)` per name out."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)  # "": a temporary file
        self._db.executescript(_SCHEMA)
        self._sides: set[str] = set()  # endings of side files that occur at all: most look-ups end here
        self._masks = False
        self._rows = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def add(self, entry: Entry) -> None:
        self._sides.update(suffix for suffix in _SIDES if entry.name.endswith(suffix))
        self._db.execute(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            (_key(entry.name), entry.at, entry.size, entry.etag, entry.uri, entry.data),
        )

    def add_table(self, rank: int, name: str, uri: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO tables VALUES (?, ?, ?)", (rank, _key(name), uri))

    def tables(self) -> Iterator[tuple[str, str]]:
        """(name, uri) of the tables, sorted by rank and name."""
        for name, uri in self._db.execute("SELECT name, uri FROM tables ORDER BY rank, name"):
            yield _text(name), uri

    def add_row(self, row: Row) -> None:
        self._rows += 1
        self._db.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?)", (_key(row.name), self._rows, row.uri, json.dumps(row.row))
        )

    def add_mask(self, name: str) -> None:
        self._masks = True
        self._db.execute("INSERT OR IGNORE INTO masks VALUES (?)", (_key(name),))

    def is_mask(self, name: str) -> bool:
        """Whether a row names it as a mask."""
        return self._masks and bool(self._db.execute("SELECT 1 FROM masks WHERE name = ?", (_key(name),)).fetchone())

    def find(self, name: str) -> list[Entry]:
        """The entries of this name, in a tar's order."""
        if any(name.endswith(suffix) and suffix not in self._sides for suffix in _SIDES):
            return []
        found = self._db.execute(
            "SELECT at, size, etag, uri, data FROM entries WHERE name = ? ORDER BY at", (_key(name),)
        ).fetchall()
        return [Entry(name, uri, size, etag, at, data) for at, size, etag, uri, data in found]

    def count(self) -> int:
        """How many entries there are."""
        return int(self._db.execute("SELECT count(*) FROM entries").fetchone()[0])

    def some(self, number: int) -> list[str]:
        """The first few names."""
        return [
            _text(name) for (name,) in self._db.execute("SELECT name FROM entries ORDER BY name LIMIT ?", (number,))
        ]

    def names(self) -> Iterator[tuple[str, list[Entry], list[Row]]]:
        """Every name that has entries or rows, sorted by its bytes."""
        entries = self._db.execute("SELECT name, at, size, etag, uri FROM entries ORDER BY name, at")
        rows = self._db.execute("SELECT name, uri, row FROM rows ORDER BY name, n")
        for key, group in groupby(merge(entries, rows, key=_first), key=_first):
            name, mine, said = _text(key), [], []
            for values in group:
                if len(values) == 5:
                    mine.append(Entry(name, values[4], values[2], values[3], values[1]))
                else:
                    said.append(Row(name, values[1], json.loads(values[2])))
            yield name, mine, said


def _first(values: tuple[Any, ...]) -> bytes:
    return values[0]


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
