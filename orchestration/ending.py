"""How a command ends: an exit code that means the same everywhere, and one message instead of a traceback.

0 done · 1 something is not well · 2 wrong usage · 42 wrong configuration or data · 75 try again later
70 a mistake of ours · 130 interrupted
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from infra.errors import BackdropError, ServiceError
from orchestration.screen import SteadyConsole, answer, for_programs

EXIT_CODES: Mapping[int, str] = {
    0: "done; of `doctor` and `status --check`: all is well",
    1: "something is not well: `doctor` or `status --check` found it",
    2: "wrong usage: an unknown command, an option that is none, a value out of range",
    BackdropError.exit_code: "refused, or wrong configuration or data: the same again will end the same",
    70: "a mistake in Backdrop itself; the message says where its traceback lies",
    ServiceError.exit_code: "something outside (a database, a server, a bucket) did not answer: try again later",
    130: "interrupted by Ctrl-C; what was finished is kept",
}
MISTAKE, INTERRUPTED = 70, 130
_AWAY = {"OperationalError", "InterfaceError", "MlflowException", "ConnectionError", "TimeoutError", "MaxRetryError"}


def run(app: Any, arguments: Sequence[str]) -> int:
    """Runs a Typer application to its end; the exit code."""
    _make_streams_safe()
    as_json = "--json" in arguments
    with ExitStack() as stack:
        if as_json:
            stack.enter_context(for_programs())
        try:
            ended = app(args=_as_text(arguments), prog_name="backdrop", standalone_mode=False)
            code = ended if isinstance(ended, int) else 0
        except SystemExit as exit:  # of the shell's completion
            code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        except BaseException as error:
            return _tell(error, as_json)
        if code == INTERRUPTED:
            return _tell(KeyboardInterrupt(), as_json)
        return _flush(code)


def _as_text(arguments: Sequence[str]) -> list[str]:
    """The arguments as UTF-8, whatever the terminal's locale is. Raises what the parser raises for a wrong one."""
    import typer

    try:
        return [os.fsencode(one).decode() for one in arguments]
    except UnicodeError as error:
        raise typer.BadParameter(f"an argument is not UTF-8: {error}") from None


def reason_of(error: BaseException) -> tuple[str, str, int]:
    """What was wrong, what to do about it, and the exit code."""
    if isinstance(error, BackdropError):
        return error.what, error.remedy, error.exit_code
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "DagsterExecutionInterruptedError":
        return "interrupted", "what was finished is kept; run the same command again to go on", INTERRUPTED
    said = " ".join(str(error).split())[:500]
    if any(kind.__name__ in _AWAY for kind in type(error).__mro__):
        return f"something outside did not answer: {said}", "run the same command again", ServiceError.exit_code
    if isinstance(error, (OSError, UnicodeError)):
        return said, "check that place and its rights", BackdropError.exit_code
    place = _keep_traceback(error)
    return f"a mistake in Backdrop: {type(error).__name__}: {said}", f"its traceback is in {place}", MISTAKE


def _tell(error: BaseException, as_json: bool) -> int:
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # of the parser
        from typer.rich_utils import rich_format_error

        rich_format_error(error)  # type: ignore[arg-type]
        what, code = error.format_message(), int(error.exit_code)
        remedy = "`--help` says what it takes"
    else:
        what, remedy, code = reason_of(error)
        _say(SteadyConsole(stderr=True), what, remedy, code)
    if as_json:
        answer({"error": what, "remedy": remedy, "exit_code": code})
    return code


def _say(console: Console, what: str, remedy: str, code: int) -> None:
    if code == INTERRUPTED:
        console.print(f"{what}: {remedy}", highlight=False, soft_wrap=True)
        return
    said = f"{what}\n  → {remedy}" if remedy else what
    console.print(f"[bold red]error:[/bold red] {escape(said)}", highlight=False, soft_wrap=True)


def _keep_traceback(error: BaseException) -> Path:
    """Writes it beside the state's other logs, or among the temporary files where that cannot be."""
    text = "".join(traceback.format_exception(error))
    from infra.settings import Settings

    try:
        path = Settings.load().state / "error.log"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (BackdropError, OSError):
        descriptor, name = tempfile.mkstemp(prefix="backdrop-", suffix=".log")
        path = Path(name)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    return path


def _flush(code: int) -> int:
    """A full disk or a reader that has gone shows only when the last words are written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _tell(error, False)
    return code


def _make_streams_safe() -> None:
    """Streams that are closed lead nowhere, and what a terminal's encoding cannot say becomes a question mark."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
