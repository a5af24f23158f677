"""Commands that move the champion, and that say who moved it."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.settings import Settings
from orchestration.commands.options import (
    MODELS,
    AsJson,
    Key,
    Model,
    Reason,
    Row,
    Token,
    Version,
    Who,
    actions,
)
from orchestration.promoting import ENGINE, MOST_ROWS, ON_THE_COMMAND_LINE, Command
from orchestration.screen import answer, words

commands = typer.Typer()


@commands.command(rich_help_panel=MODELS)
def promote(
    version: Version = "",
    reason: Reason = ON_THE_COMMAND_LINE,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Make a version champion. Example: backdrop promote 4 --reason "the cups are fine" """
    _carry_out(Command("promote", model, version, None, reason, actor, key, token), as_json)


@commands.command(rich_help_panel=MODELS)
def approve(
    version: Version = "",
    reason: Reason = ON_THE_COMMAND_LINE,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Say yes to a version, where the policy asks for it. Example: backdrop approve 4 --reason "looked at 50" """
    _carry_out(Command("approve", model, version, None, reason, actor, key, token), as_json)


@commands.command(rich_help_panel=MODELS)
def reject(
    reason: Reason,
    version: Version = "",
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Say no to a version. Example: backdrop reject 4 --reason "it paints cups twice" """
    _carry_out(Command("reject", model, version, None, reason, actor, key, token), as_json)


@commands.command(rich_help_panel=MODELS)
def rollback(
    row: Row = None,
    reason: Reason = ON_THE_COMMAND_LINE,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Make an earlier champion champion again; nothing is rebuilt. Example: backdrop rollback --reason "it is slow" """
    _carry_out(Command("rollback", model, "", row, reason, actor, key, token), as_json)


@commands.command(rich_help_panel=MODELS)
def history(
    model: Model = ENGINE,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="How many rows.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Who was champion when, and why. Example: backdrop history --limit 10"""
    from orchestration.promoting import show_history

    document = show_history(Settings.load(), words(as_json), model, limit)
    if as_json:
        answer(document)


@commands.command(rich_help_panel=MODELS)
def sign(
    action: Annotated[str, typer.Argument(help="promote, approve, reject or rollback.", autocompletion=actions)],
    version: Version = "",
    row: Row = None,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Print your public key, and a token to paste into a Dagster job. Example: backdrop sign approve 4"""
    from orchestration.promoting import show_token

    document = show_token(Settings.load(), words(as_json), Command(action, model, version, row, actor=actor, key=key))
    if as_json:
        answer(document)


def _carry_out(command: Command, as_json: bool) -> None:
    from orchestration.promoting import run_command

    document = run_command(Settings.load(), words(as_json), command)
    if as_json:
        answer(document)
