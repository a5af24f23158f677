"""The progress of `make run` on a terminal: one line per stage with speed and time left.

Where the output is no terminal, the same facts come as plain lines, one per stage and quarter.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from infra.jobs.events import Event
from infra.jobs.events import Progress as Step


class LineProgress:
    """Hears job events (from the channel's thread) and draws them. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._began: dict[tuple[str, str], float] = {}
        self._quarter: dict[tuple[str, str], int] = {}
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> LineProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, asset: str, event: Event) -> None:
        """The listener of `assets.line.Line`."""
        if isinstance(event, Step) and event.total > 0:
            with self._lock:
                self._step(asset, event)

    def _step(self, asset: str, event: Step) -> None:
        key = (asset, event.stage)
        began = self._began.setdefault(key, time.monotonic())
        seconds = time.monotonic() - began
        speed = f"{event.done / seconds:,.1f} {event.unit}/s" if event.done and seconds > 1 and event.unit else ""
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(f"{asset}: {event.stage}", total=event.total, speed="")
        self._bars.update(self._tasks[key], completed=event.done, total=event.total, speed=speed)
        quarter = int(4 * event.done / event.total)
        if not self.console.is_terminal and self._quarter.get(key) != quarter:
            self._quarter[key] = quarter
            left = f", {seconds * (event.total / event.done - 1):.0f} s left" if event.done and quarter < 4 else ""
            self.console.print(
                f"  {asset}: {event.stage} {event.done:.0f}/{event.total:.0f} {event.unit} {speed}{left}".rstrip(),
                highlight=False,
                soft_wrap=True,
            )
