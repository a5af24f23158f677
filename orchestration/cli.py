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
from orchestration.promoting import ENGINE, MOST_ROWS, ON_THE_COMMAND_LINE

app = typer.Typer(
    name="backdrop",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="The production line behind an in-house image-editing model.",
)
jobs = typer.Typer(no_args_is_help=True, help="Jobs on a cluster.")
app.add_typer(jobs, name="jobs")
console = Console()


@app.command()
def run(
    images: Annotated[str | None, typer.Option(help="A folder or s3:// prefix of your own pictures.")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny or nano.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file laid over the preset.")] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Every stage takes the newest dataset version.")] = False,
) -> None:
    """Materialise the whole lineage and print where to look. Example: backdrop run --images ~/pictures"""
    asked = {"IMAGES": images, "PRESET": preset, "CONFIG": config, "ADOPT": "all" if adopt else None}
    for name, value in asked.items():
        if value:
            os.environ[f"BACKDROP_{name}"] = str(value)
    from orchestration.run import run_line

    _show(run_line(Settings.load(), console))


@app.command()
def personalise(
    subject: Annotated[str, typer.Argument(help="A name of your own for it, such as my-mug.")],
    images: Annotated[str, typer.Option(help="A folder or s3:// prefix of photographs of it; five are enough.")],
    word: Annotated[str, typer.Option(help="What it is, such as mug.")],
    method: Annotated[str | None, typer.Option(help="dreambooth, lora or textual-inversion.")] = None,
) -> None:
    """Teach the pretrained model one subject. Example: backdrop personalise my-mug --images ~/mug --word mug"""
    from orchestration.personalise import teach

    teach(Settings.load(), console, subject, images, word, method)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster page.")] = 3000,
) -> None:
    """Serve Dagster's web UI, MLflow's and the studio, on this machine only. Example: backdrop ui --port 3000"""
    from orchestration.ui import serve

    serve(Settings.load(), console, port)


@app.command()
def studio(
    port: Annotated[int, typer.Option(help="Port of the studio's page.")] = 3001,
    host: Annotated[str, typer.Option(help="Address to listen on; it has no login.")] = "127.0.0.1",
) -> None:
    """Serve the studio alone: try the champion on photographs. Example: backdrop studio --port 3001"""
    from orchestration.ui import serve_studio

    serve_studio(Settings.load(), console, host, port)


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


@app.command()
def takedown(
    target: Annotated[str, typer.Argument(help="An image id, the beginning of a URI or source, or a copy.")],
    reason: Annotated[str, typer.Option(help="Why; it is written on everything that is withdrawn.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what holds the images.")] = False,
) -> None:
    """Take images out of everything the line made. Example: backdrop takedown s3://shop/spring/ --reason "licence" """
    from orchestration.takedown import take_down

    take_down(Settings.load(), console, target, reason, dry_run)


@app.command()
def trace(
    image: Annotated[str | None, typer.Argument(help="An image id or a copy of the file.")] = None,
    model: Annotated[str | None, typer.Option(help="A registered model: <name>@<alias>.")] = None,
    listing: Annotated[Path | None, typer.Option("--list", help="With --model: write a JSON line per image.")] = None,
) -> None:
    """From an image to the models, or back. Example: backdrop trace --model backdrop-engine@champion"""
    from orchestration.trace import trace_image, trace_model

    if (image is None) == (model is None):
        raise BackdropError("what is to be traced?", "give an image id or a file, or --model <name>@<alias>")
    if model is not None:
        trace_model(Settings.load(), console, model, listing)
    else:
        trace_image(Settings.load(), console, str(image))


@app.command()
def quarantine(
    delivery: Annotated[str | None, typer.Option(help="Only this delivery.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Have it scanned again.")] = False,
) -> None:
    """List what could not be decoded, and why. Example: backdrop quarantine --delivery shop-1a2b3c4d --retry"""
    from orchestration import trace as answers

    answers.quarantine(Settings.load(), console, delivery, retry)


Model = Annotated[str, typer.Option(help="A registered model.")]
Version = Annotated[str, typer.Argument(help="Its version; none means @challenger.")]
Row = Annotated[int | None, typer.Option(help="A row of the ledger; without it the champion before.")]
Reason = Annotated[str, typer.Option(help="Why; it is written into the ledger.")]
Who = Annotated[str, typer.Option(help="Who asks; the name of the login without it.")]
Key = Annotated[str, typer.Option(help="Your private key, where the approvers have to sign: env:NAME or file:/path.")]
Token = Annotated[str, typer.Option(help="What `backdrop sign` has made elsewhere.")]


@app.command()
def promote(
    version: Version = "",
    reason: Reason = ON_THE_COMMAND_LINE,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
) -> None:
    """Make a version champion. Example: backdrop promote 4 --reason "the cups are fine" """
    _promoting("promote", model, version, None, reason, actor, key, token)


@app.command()
def approve(
    version: Version = "",
    reason: Reason = ON_THE_COMMAND_LINE,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
) -> None:
    """Say yes to a version, where the policy asks for it. Example: backdrop approve 4 --reason "looked at 50" """
    _promoting("approve", model, version, None, reason, actor, key, token)


@app.command()
def reject(
    reason: Reason,
    version: Version = "",
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
) -> None:
    """Say no to a version. Example: backdrop reject 4 --reason "it paints cups twice" """
    _promoting("reject", model, version, None, reason, actor, key, token)


@app.command()
def rollback(
    row: Row = None,
    reason: Reason = ON_THE_COMMAND_LINE,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
    token: Token = "",
) -> None:
    """Make an earlier champion champion again; nothing is rebuilt. Example: backdrop rollback --reason "it is slow" """
    _promoting("rollback", model, "", row, reason, actor, key, token)


@app.command()
def history(
    model: Model = ENGINE,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="How many rows.")] = 30,
) -> None:
    """Who was champion when, and why. Example: backdrop history --limit 10"""
    from orchestration.promoting import show_history

    show_history(Settings.load(), console, model, limit)


@app.command()
def sign(
    action: Annotated[str, typer.Argument(help="promote, approve, reject or rollback.")],
    version: Version = "",
    row: Row = None,
    model: Model = ENGINE,
    actor: Who = "",
    key: Key = "",
) -> None:
    """Print your public key, and a token to paste into a Dagster job. Example: backdrop sign approve 4"""
    from orchestration.promoting import Command, show_token

    show_token(Settings.load(), console, Command(action, model, version, row, actor=actor, key=key))


def _promoting(
    action: str, model: str, version: str, row: int | None, reason: str, actor: str, key: str, token: str
) -> None:
    from orchestration.promoting import Command, run_command

    run_command(Settings.load(), console, Command(action, model, version, row, reason, actor, key, token))


@jobs.command()
def reap() -> None:
    """Delete the Jobs that no run wants any more. Example: backdrop jobs reap"""
    from orchestration.reaping import reap_now

    reap_now(Settings.load(), console)


@app.command()
def plan(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Say what each automation would do now, and why; nothing is started. Example: backdrop plan --json"""
    from orchestration.planning import show_plan

    show_plan(Settings.load(), console, as_json)


@app.command()
def alerts(
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 20,
    test: Annotated[bool, typer.Option("--test", help="Send one message to every destination instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What somebody was told of, newest first. Example: backdrop alerts --test"""
    from orchestration.alerts import listing

    if test:
        listing.send_test(Settings.load(), console)
    else:
        listing.show_alerts(Settings.load(), console, limit, as_json)


@app.command()
def migrate() -> None:
    """Bring the databases that are given by URL to this version. Example: backdrop migrate"""
    from orchestration.migrate import migrate as bring_up

    bring_up(Settings.load(), console)


@app.command()
def doctor(
    pull: Annotated[bool, typer.Option("--pull", help="Also run the image of GPU jobs once.")] = False,
) -> None:
    """Check an installation; each failing line says what to do. Example: backdrop doctor --pull"""
    from orchestration.doctor import doctor as examine

    raise typer.Exit(1 if examine(console, pull=pull) else 0)


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
        Console(stderr=True).print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
