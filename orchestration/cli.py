"""`backdrop …`: the command line. Thin: the commands are in `orchestration.commands`, and heavy imports inside them."""

from __future__ import annotations

import sys

import typer

from orchestration.commands import images, making, models, operating
from orchestration.commands.jobs import jobs
from orchestration.commands.options import OPERATE
from orchestration.ending import run

app = typer.Typer(
    name="backdrop",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="The production line behind an in-house image-editing model.",
)
for room in (making, images, models, operating):
    app.add_typer(room.commands)
app.add_typer(jobs, name="jobs", rich_help_panel=OPERATE)


def main() -> None:
    """Entry point: whatever happens is an exit code and, where it is an error, one message (`orchestration.ending`)."""
    sys.exit(run(app, sys.argv[1:]))


if __name__ == "__main__":
    main()
