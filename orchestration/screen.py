"""What a command shows: words to people, or with --json one document to programs.

             stdout            stderr
people       words             errors
--json       one document      words, progress, errors, and whatever a library or a child process prints
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime
from pathlib import PurePath
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_ROOMY, _NARROW = 76, 60  # columns

_programs: ContextVar[TextIO | None] = ContextVar("_programs", default=None)


class SteadyConsole(Console):
    """A console whose work goes on when nobody reads it any more: `backdrop takedown … | head` takes all down."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _to_nowhere(sys.stderr if self.stderr else sys.stdout)


def words(as_json: bool) -> Console:
    """Where a command's words go."""
    return SteadyConsole(stderr=as_json)


def answer(document: Any) -> None:
    """Writes the one document of a command that was asked for it."""
    file = _programs.get() or sys.stdout
    try:
        file.write(json.dumps(plain(document), indent=1) + "\n")
        file.flush()
    except OSError as error:  # what could not be written must not come again when the file is closed
        _to_nowhere(file)
        if not isinstance(error, BrokenPipeError):
            raise


@contextmanager
def for_programs() -> Iterator[None]:
    """While this holds, only `answer` reaches stdout; what anybody else writes there comes out at stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="ascii") as file:
        os.dup2(2, 1)
        token = _programs.set(file)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(file.fileno(), 1)
            _programs.reset(token)


def plain(value: Any) -> Any:
    """`value` as JSON knows it: moments as ISO 8601 in UTC, dataclasses as objects, not-a-number as null."""
    if isinstance(value, float):
        return value if value - value == 0 else None  # infinite and not-a-number are no JSON
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, (date, PurePath)):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    return str(value)


def records(columns: Iterable[str], rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows with attributes of the columns' names, as objects."""
    names = list(columns)
    return [{name: plain(getattr(row, name)) for name in names} for row in rows]


def show_table(console: Console, rows: list[dict[str, Any]], title: str = "", whole: Collection[str] = ()) -> None:
    """Objects as lines, on a narrow terminal one below the other; nothing where there is none. `whole`: the keys whose
    values stay on one line where there is room."""
    if not rows:
        return
    names, roomy = list(rows[0]), console.width >= _ROOMY
    if console.width < _NARROW:
        _show_stacked(console, rows, title)
        return
    table = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE, show_edge=False, pad_edge=False)
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=roomy and name in whole)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    console.print(table)


def _show_stacked(console: Console, rows: list[dict[str, Any]], title: str) -> None:
    if title:
        console.print(f"[italic]{escape(title)}[/italic]", highlight=False)
    for row in rows:
        first, *rest = row
        console.print(f"[bold]{_cell(row[first])}[/bold]", highlight=False)
        for name in rest:
            if row[name] not in (None, ""):
                console.print(f"  {name.replace('_', ' ')}: {_cell(row[name])}", highlight=False)


def moment(at: str | None) -> str:
    """An ISO 8601 moment as people read it, in UTC; empty for None."""
    return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M") if at else ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _to_nowhere(file: TextIO) -> None:
    """What is still written there is thrown away, also at exit."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), file.fileno())
