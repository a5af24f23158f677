"""Presets: one short YAML file each (`tiny`, `nano`) over one set of typed defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from infra.errors import BackdropError, nearest
from infra.layers import merge
from training.presets.sections import (
    AutoencoderSection,
    DistilSection,
    DiTSection,
    EvaluateSection,
    ExportSection,
    FinetuneSection,
    LatentsSection,
    Preset,
    PretrainSection,
)

__all__ = [
    "AutoencoderSection",
    "DiTSection",
    "DistilSection",
    "EvaluateSection",
    "ExportSection",
    "FinetuneSection",
    "LatentsSection",
    "Preset",
    "PretrainSection",
    "known_presets",
    "load_preset",
]

FOLDER = Path(__file__).parent


def known_presets() -> list[str]:
    """Names that `load_preset` takes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_preset(name: str, overrides: Path | None = None) -> Preset:
    """The preset `name`, with the YAML file `overrides` merged over it key by key.

    Raises BackdropError on an unknown preset, an unreadable file, an unknown key or a value out of range.
    """
    if name not in known_presets():
        raise BackdropError(
            f"There is no preset {name!r}.{nearest(name, known_presets())}",
            f"Presets are: {', '.join(known_presets())}.",
        )
    path = FOLDER / f"{name}.yaml"
    values = _read(path)
    if overrides is not None:
        path = overrides
        values = merge(values, _read(overrides))
    try:
        return Preset.model_validate({"name": name, **values})
    except ValidationError as error:
        raise explain(error, Preset, str(path)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> BackdropError:
    """A pydantic error as one message that names each key, what is wrong with it and its nearest known name."""
    lines = []
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        dotted = ".".join(location)
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, location[:-1])
            lines.append(f"unknown key {dotted!r}.{nearest(location[-1], known)}")
        else:
            lines.append(f"{dotted!r}: {item['msg']} (got {item['input']!r})")
    return BackdropError(f"{where}: " + "; ".join(lines), f"Correct {where} and run again.")


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BackdropError(
            f"Cannot read the configuration {path}: {error.strerror}.", "Give a readable YAML file."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BackdropError(f"{path} is not valid YAML: {error}", "Correct the file and run again.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        what = f"{path} holds a {type(values).__name__}, not a mapping of sections."
        raise BackdropError(what, "See training/presets.")
    return values
