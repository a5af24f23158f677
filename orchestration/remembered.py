"""Which preset the state folder was last run with: `backdrop ui` and `backdrop takedown` go on with that one.

Without it they would take the default, whose sample catalogue is another delivery than the one in the mix.
"""

from __future__ import annotations

import json
import os

from infra.files import write_atomic
from infra.settings import PREFIX, Settings

_FILE = "last_run.json"


def remember(settings: Settings) -> None:
    """Writes down what `make run` runs with."""
    values = {"preset": settings.preset, "config": str(settings.config) if settings.config else None}
    write_atomic(settings.state / _FILE, json.dumps(values))


def as_last_run(settings: Settings) -> dict[str, str]:
    """The last run's preset and its configuration as environment variables; {} where a preset is asked for."""
    if os.environ.get(f"{PREFIX}PRESET") or os.environ.get(f"{PREFIX}CONFIG"):
        return {}
    try:
        values = json.loads((settings.state / _FILE).read_text())
    except FileNotFoundError:
        return {}
    return {f"{PREFIX}{name.upper()}": value for name, value in values.items() if value}
