"""`backdrop …`: the command line. Thin: every heavy import waits inside its command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import BackdropError
from infra.settings import Settings

app = typer.Typer(
    name="backdrop",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="The production line behind an in-house image-editing model.",
)
console = Console()


@app.command()
def run(
    images: Annotated[str | None, typer.Option(help="A folder or s3:// prefix of your own pictures.")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny or nano.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file laid over the preset.")] = None,
) -> None:
    """Materialise the whole lineage and print where to look. Example: backdrop run --images ~/pictures"""
    for name, value in {"IMAGES": images, "PRESET": preset, "CONFIG": config}.items():
        if value:
            os.environ[f"BACKDROP_{name}"] = str(value)
    from orchestration.run import run_line

    _show(run_line(Settings.load(), console))


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster page.")] = 3000,
) -> None:
    """Serve Dagster's web UI and MLflow's, both on this machine only. Example: backdrop ui --port 3000"""
    from orchestration.ui import serve

    serve(Settings.load(), console, port)


@app.command()
def clean() -> None:
    """Stop the services and remove the state folder with everything the line left behind. Example: backdrop clean"""
    from infra.database import remove_state
    from infra.jobs.handle import end_stale
    from infra.services import stop_services

    settings = Settings.load()
    end_stale(settings.state)
    stop_services(settings)
    remove_state(settings)
    console.print(f"removed {settings.state}")


def _show(outcome: Any) -> None:
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


def main() -> None:
    """Entry point: an error of ours is one message on stderr and its exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except BackdropError as error:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {error}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
