"""Bulk writes: COPY into a temporary table, from which one statement moves the rows where they belong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection


def stage(connection: Connection, table: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> int:
    """Copies rows into the temporary table `table` (gone at commit) with columns (name, SQL type); returns how many.

    The rows stream: an iterator of any length is held neither here nor in the database client.
    """
    cursor = connection.connection.cursor()
    cursor.execute(f"DROP TABLE IF EXISTS pg_temp.{table}")
    cursor.execute(f"CREATE TEMP TABLE {table} ({', '.join(f'{n} {t}' for n, t in columns)}) ON COMMIT DROP")
    count = 0
    with cursor.copy(f"COPY {table} ({', '.join(name for name, _ in columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([clean(value) if isinstance(value, str) else value for value in row])
            count += 1
    cursor.execute(f"ANALYZE {table}")
    return count


def clean(text: str) -> str:
    """Text that PostgreSQL can hold: without NUL characters and unpaired surrogates, which captions files do bring."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def to_json(value: Any) -> str:
    """JSON that jsonb can hold: clean text, and null for NaN and infinities."""
    return json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False)


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
