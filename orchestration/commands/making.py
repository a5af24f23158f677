"""Commands that make things, and that show them in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.settings import Settings
from orchestration.commands.options import MAKE, AsJson, Preset, methods
from orchestration.screen import answer, words

commands = typer.Typer()


@commands.command(rich_help_panel=MAKE)
def run(
    images: Annotated[str | None, typer.Option(help="A folder or s3:// prefix of your own pictures.")] = None,
    preset: Preset = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file laid over the preset.")] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Every stage takes the newest dataset version.")] = False,
    as_json: AsJson = False,
) -> None:
    """Materialise the whole lineage and print where to look. Example: backdrop run --images ~/pictures"""
    asked = {"IMAGES": images, "PRESET": preset, "CONFIG": config, "ADOPT": "all" if adopt else None}
    for name, value in asked.items():
        if value:
            os.environ[f"BACKDROP_{name}"] = str(value)
    from orchestration.run import document_of, run_line

    console = words(as_json)
    outcome = run_line(Settings.load(), console)
    _show(console, outcome)
    if as_json:
        answer(document_of(outcome))


@commands.command(rich_help_panel=MAKE)
def personalise(
    subject: Annotated[str, typer.Argument(help="A name of your own for it, such as my-mug.")],
    images: Annotated[str, typer.Option(help="A folder or s3:// prefix of photographs of it; five are enough.")],
    word: Annotated[str, typer.Option(help="What it is, such as mug.")],
    method: Annotated[
        str | None, typer.Option(help="dreambooth, lora or textual-inversion.", autocompletion=methods)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Teach the pretrained model one subject. Example: backdrop personalise my-mug --images ~/mug --word mug"""
    from orchestration.personalise import teach

    document = teach(Settings.load(), words(as_json), subject, images, word, method)
    if as_json:
        answer(document)


@commands.command(rich_help_panel=MAKE)
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster page.", min=1, max=65535)] = 3000,
) -> None:
    """Serve Dagster's web UI, MLflow's and the studio, on this machine only. Example: backdrop ui --port 3000"""
    from orchestration.ui import serve

    serve(Settings.load(), words(False), port)


@commands.command(rich_help_panel=MAKE)
def studio(
    port: Annotated[int, typer.Option(help="Port of the studio's page.", min=1, max=65535)] = 3001,
    host: Annotated[str, typer.Option(help="Address to listen on; it has no login.")] = "127.0.0.1",
) -> None:
    """Serve the studio alone: try the champion on photographs. Example: backdrop studio --port 3001"""
    from orchestration.ui import serve_studio

    serve_studio(Settings.load(), words(False), host, port)


@commands.command(rich_help_panel=MAKE)
def clean(as_json: AsJson = False) -> None:
    """Stop the services and remove the state folder with everything the line left behind. Example: backdrop clean"""
    from infra.database import remove_state
    from infra.jobs.handle import end_stale
    from infra.services import stop_services

    settings = Settings.load()
    end_stale(settings.state)
    stop_services(settings)
    remove_state(settings)
    words(as_json).print(f"removed {settings.state}", markup=False, soft_wrap=True)
    if as_json:
        answer({"removed": settings.state})


def _show(console: Console, outcome: Any) -> None:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for column in ("asset", "", "what came out"):
        table.add_column(column, overflow="fold")
    for name, metadata in outcome.metadata.items():
        facts = [
            f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in metadata.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        table.add_row(
            escape(name),
            "[dim]reused[/dim]" if metadata.get("reused") else "[green]made[/green]",
            ", ".join(facts[:6]),
        )
    console.print(table)
    console.print(f"\nfinished in {outcome.seconds:.0f} s")
    if outcome.report:
        console.print(f"report   {outcome.report}", soft_wrap=True, highlight=False)
    console.print("look     `make ui` serves Dagster's page and MLflow's", highlight=False)
