"""Bulk writes: COPY into a temporary table, from which one statement moves the rows where they belong.

Rows become COPY's text format here, a thousand at a time: half the cost of handing values one by one to the driver.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from json.encoder import encode_basestring
from typing import Any

from sqlalchemy import Connection

_BATCH = 1000
_SORT_MB = 64
_FEW = 5000  # rows for which any plan will do: an ANALYZE costs more than it saves
# What COPY's text format reserves; bytes that PostgreSQL cannot hold go as well.
_RESERVED = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": None})
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_SURROGATE = re.compile("[\ud800-\udfff]")


def stage(connection: Connection, table: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> int:
    """Copies rows into the temporary table `table` (gone at commit) with columns (name, SQL type); returns how many.

    Values are None, str, int, float, bool or bytes. The rows stream: an iterator of any length is held neither here
    nor in the database client.
    """
    cursor = connection.connection.cursor()
    cursor.execute(f"DROP TABLE IF EXISTS pg_temp.{table}")
    cursor.execute(f"CREATE TEMP TABLE {table} ({', '.join(f'{n} {t}' for n, t in columns)}) ON COMMIT DROP")
    cursor.execute(f"SET LOCAL work_mem = '{_SORT_MB}MB'")  # what is staged gets sorted
    count, rows = 0, iter(rows)
    with cursor.copy(f"COPY {table} ({', '.join(name for name, _ in columns)}) FROM STDIN") as copy:
        while batch := list(islice(rows, _BATCH)):
            copy.write(_lines(batch))
            count += len(batch)
    if count > _FEW:
        cursor.execute(f"ANALYZE {table}")
    return count


def _lines(batch: Sequence[Sequence[Any]]) -> str:
    """Rows in COPY's text format. Nearly every row is plain, which one look at all of its text tells."""
    lines = []
    for row in batch:
        text = "".join([value for value in row if type(value) is str])
        plain = text.isascii() and not any(reserved in text for reserved in "\\\n\r\t\0")
        field = _plain if plain else _field
        lines.append("\t".join([value if plain and type(value) is str else field(value) for value in row]))
    return "\n".join(lines) + "\n"


def _field(value: Any) -> str:
    return clean(value).translate(_RESERVED) if type(value) is str else _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "\\N"
    if type(value) is bytes:
        return "\\\\x" + value.hex()
    return str(value)


def clean(text: str) -> str:
    """Text that PostgreSQL can hold: without NUL characters and unpaired surrogates, which caption files do bring."""
    if "\0" in text:
        text = text.replace("\0", "")
    return text if text.isascii() else _SURROGATE.sub("?", text)


def to_json(value: Any) -> str:
    """JSON that jsonb can hold: clean text, and null for NaN and infinities."""
    try:
        plain = _simple(value) or _encode(value)
    except (TypeError, ValueError):  # NaN, or a key that is not text
        return _encode(_jsonable(value))
    # Nearly every value: nothing in it that PostgreSQL could not hold.
    return plain if plain.isascii() and "\\u0000" not in plain else _encode(_jsonable(value))


def _simple(value: Any) -> str:
    """JSON of the two shapes that come by the million, without an encoder's preparations; "" for any other.

    A list of strings (captions), and a dict of strings and whole numbers (attributes).
    """
    if type(value) is list:
        if all(type(item) is str for item in value):
            return "[" + ", ".join(map(encode_basestring, value)) + "]"
    elif type(value) is dict and all(
        type(key) is str and (type(item) is str or type(item) is int) for key, item in value.items()
    ):
        pairs = [
            f"{encode_basestring(key)}: {encode_basestring(item) if type(item) is str else item}"
            for key, item in value.items()
        ]
        return "{" + ", ".join(pairs) + "}"
    return ""


def _jsonable(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(str(key)): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
