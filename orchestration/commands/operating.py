"""Commands that say how the line is."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.settings import Settings
from orchestration.commands.options import OPERATE, AsJson
from orchestration.screen import answer, words

commands = typer.Typer()


@commands.command(rich_help_panel=OPERATE)
def status(
    check: Annotated[bool, typer.Option("--check", help="End with 1 where something is not well.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Bring the services up for it, and down after it.")] = False,
    as_json: AsJson = False,
) -> None:
    """The line on one screen; starts nothing unless asked. Example: backdrop status --check"""
    from orchestration.status import status as look

    document = look(Settings.load(), words(as_json), start)
    if as_json:
        answer(document)
    else:
        from orchestration.status_shown import show_status

        show_status(words(False), document)
    if check and document["problems"]:
        raise typer.Exit(1)


@commands.command(rich_help_panel=OPERATE)
def plan(
    as_json: AsJson = False,
) -> None:
    """Say what each automation would do now, and why; nothing is started. Example: backdrop plan --json"""
    from orchestration.planning import show_plan

    document = show_plan(Settings.load(), words(as_json))
    if as_json:
        answer(document)


@commands.command(rich_help_panel=OPERATE)
def alerts(
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 20,
    test: Annotated[bool, typer.Option("--test", help="Send one message to every destination instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """What somebody was told of, newest first. Example: backdrop alerts --test"""
    from orchestration.alerts import listing

    settings, console = Settings.load(), words(as_json)
    if test:
        listing.send_test(settings, console)
        document: object = {"sent": True}
    else:
        document = listing.show_alerts(settings, console, limit)
    if as_json:
        answer(document)


@commands.command(rich_help_panel=OPERATE)
def migrate(as_json: AsJson = False) -> None:
    """Bring the databases that are given by URL to this version. Example: backdrop migrate"""
    from orchestration.migrate import migrate as bring_up

    bring_up(Settings.load(), words(as_json))
    if as_json:
        answer({"current": True})


@commands.command(rich_help_panel=OPERATE)
def doctor(
    pull: Annotated[bool, typer.Option("--pull", help="Also run the image of GPU jobs once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check an installation; each failing line says what to do. Example: backdrop doctor --pull"""
    from orchestration.doctor import doctor as examine

    findings = examine(words(as_json), pull=pull)
    ill = sum(finding.state == "failed" for finding in findings)
    if as_json:
        answer({"findings": findings, "failed": ill})
    raise typer.Exit(1 if ill else 0)
