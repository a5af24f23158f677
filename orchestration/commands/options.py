"""Options that several commands share, and what a shell completes them with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.settings import REPOSITORY

MAKE, IMAGES, MODELS, OPERATE = "Make", "Images", "Models", "Operate"
"""The parts of the help."""


def presets(incomplete: str) -> list[str]:
    """The presets that there are."""
    names = sorted(path.stem for path in (REPOSITORY / "training" / "presets").glob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


def actions(incomplete: str) -> list[str]:
    """What can be asked of the registry."""
    from orchestration.promoting import ACTIONS

    return [name for name in ACTIONS if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """The registered models."""
    from deploy.registry import REGISTERED_NAMES

    return [name for name in sorted(REGISTERED_NAMES.values()) if name.startswith(incomplete)]


def aliases(incomplete: str) -> list[str]:
    """The registered models with each alias that the line sets."""
    from deploy.registry import CHALLENGER, CHAMPION, PREVIOUS

    every = [f"{model}@{alias}" for model in models("") for alias in (CHAMPION, CHALLENGER, PREVIOUS)]
    return [name for name in every if name.startswith(incomplete)]


def job_keys(incomplete: str) -> list[str]:
    """The jobs of this machine, by the names of their folders: nothing is opened."""
    from infra.errors import BackdropError
    from infra.settings import Settings

    try:
        folders = Settings.load().state.glob("jobs/*/handle.json")
        return sorted(path.parent.name for path in folders if path.parent.name.startswith(incomplete))
    except (BackdropError, OSError):
        return []


def methods(incomplete: str) -> list[str]:
    """The methods of personalisation."""
    return [name for name in ("dreambooth", "lora", "textual-inversion") if name.startswith(incomplete)]


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, words on stderr.")]
Preset = Annotated[str | None, typer.Option(help="tiny, nano, small or base.", autocompletion=presets)]
Model = Annotated[str, typer.Option(help="A registered model.", autocompletion=models)]
Version = Annotated[str, typer.Argument(help="Its version; none means @challenger.")]
Row = Annotated[int | None, typer.Option(help="A row of the ledger; without it the champion before.")]
Reason = Annotated[str, typer.Option(help="Why; it is written into the ledger.")]
Who = Annotated[str, typer.Option(help="Who asks; the name of the login without it.")]
Key = Annotated[str, typer.Option(help="Your private key, where the approvers have to sign: env:NAME or file:/path.")]
Token = Annotated[str, typer.Option(help="What `backdrop sign` has made elsewhere.")]
JobKey = Annotated[
    str, typer.Argument(help="A job's key, or as much of it as names one.", autocompletion=job_keys, metavar="JOB")
]
Listing = Annotated[Path | None, typer.Option("--list", help="With --model: write a JSON line per image.")]
