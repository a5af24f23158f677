"""Commands about images: where they went, what could not be read, and how they leave."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.errors import BackdropError
from infra.settings import Settings
from orchestration.commands.options import IMAGES, AsJson, Listing, aliases
from orchestration.screen import answer, words

commands = typer.Typer()


@commands.command(rich_help_panel=IMAGES)
def takedown(
    target: Annotated[str, typer.Argument(help="An image id, the beginning of a URI or source, or a copy.")],
    reason: Annotated[str, typer.Option(help="Why; it is written on everything that is withdrawn.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what holds the images.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take images out of everything the line made. Example: backdrop takedown s3://shop/spring/ --reason "licence" """
    from orchestration.takedown import take_down

    document = take_down(Settings.load(), words(as_json), target, reason, dry_run)
    if as_json:
        answer(document)


@commands.command(rich_help_panel=IMAGES)
def trace(
    image: Annotated[str | None, typer.Argument(help="An image id or a copy of the file.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A registered model: <name>@<alias>.", autocompletion=aliases)
    ] = None,
    listing: Listing = None,
    as_json: AsJson = False,
) -> None:
    """From an image to the models, or back. Example: backdrop trace --model backdrop-engine@champion"""
    from orchestration.trace import trace_image, trace_model

    if (image is None) == (model is None):
        raise BackdropError("what is to be traced?", "give an image id or a file, or --model <name>@<alias>")
    if model is None and listing is not None:
        raise BackdropError("--list writes the images of a model", "give --model <name>@<alias>")
    if model is not None:
        document = trace_model(Settings.load(), words(as_json), model, listing)
    else:
        document = trace_image(Settings.load(), words(as_json), str(image))
    if as_json:
        answer(document)


@commands.command(rich_help_panel=IMAGES)
def quarantine(
    delivery: Annotated[str | None, typer.Option(help="Only this delivery.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Have it scanned again.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what could not be decoded, and why. Example: backdrop quarantine --delivery shop-1a2b3c4d --retry"""
    from orchestration import trace as answers

    document = answers.quarantine(Settings.load(), words(as_json), delivery, retry)
    if as_json:
        answer(document)
