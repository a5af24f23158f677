"""A section of the preset as the launchpad knows it: every key with its type, meaning, limits and the preset's value.

The launchpad refuses unknown keys, wrong types and unknown choices while they are typed; what pydantic alone knows
(limits, keys that do not go together) is refused when the run starts, before any job does.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import annotated_types
import dagster as dg

from infra.errors import BackdropError
from training.presets.section import Section

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from training.presets import Preset

_SCALARS: dict[Any, Any] = {int: dg.Int, float: dg.Float, bool: dg.Bool, str: dg.String}


@dataclass(frozen=True)
class Asked:
    """What the launchpad asked of one materialisation."""

    overrides: Mapping[str, Any]
    adopt: bool


def launchpad(section: str) -> dict[str, dg.Field]:
    """The configuration of an asset that a recipe makes from the preset's section `section`."""
    preset = _preset()
    values: Section = getattr(preset, section)
    return {
        "overrides": overrides(type(values), values.model_dump(), preset.name),
        "adopt": dg.Field(
            dg.Bool,
            default_value=False,
            description="train on the newest dataset version, also where the policy would stay with the pinned one",
        ),
    }


def asked_in(context: dg.AssetExecutionContext) -> Asked:
    """The configuration of `context`'s asset, as `launchpad` described it."""
    given = context.op_execution_context.op_config
    return Asked(given.get("overrides", {}), given["adopt"])


@functools.cache
def _preset() -> Preset:
    """This installation's; the defaults where its settings are wrong: the page must open, and the first run says so."""
    from infra.settings import Settings
    from training.presets import load_preset
    from training.presets.sections import Preset

    try:
        settings = Settings.load()
        return load_preset(settings.preset, settings.config)
    except BackdropError:
        return Preset(name="defaults")


def overrides(section: type[Section], preset: Mapping[str, Any], name: str) -> dg.Field:
    """The field `overrides` of an asset's configuration: any of `section`'s keys, none of them required.

    `preset`: what the section holds without overrides, to be shown; `name`: the preset's.
    """
    shape = _shape(section, preset, name)
    return dg.Field(shape, is_required=False, description=f"Laid over this stage's section of preset {name}.")


def _shape(section: type[Section], values: Mapping[str, Any], preset: str) -> dg.Shape:
    fields = {}
    for key, field in section.model_fields.items():
        now = values.get(key)
        config_type = _type(field.annotation, f"{section.__name__}_{key}", now, preset)
        fields[key] = dg.Field(config_type, is_required=False, description=_words(field, now, preset))
    return dg.Shape(fields, description=(section.__doc__ or "").strip() or None)


def _type(annotation: Any, name: str, now: Any, preset: str) -> Any:
    """The Dagster type of a pydantic annotation. `name` is what an enumeration is called: Dagster wants it unique."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return _shape(annotation, now if isinstance(now, Mapping) else {}, preset)
    if origin in (Union, types.UnionType):
        rest = [part for part in inner if part is not type(None)]
        if len(rest) == 1 and len(rest) < len(inner):
            return dg.Noneable(_type(rest[0], name, now, preset))
    if origin is Literal:
        if all(isinstance(choice, str) for choice in inner):
            return dg.Enum(name, [dg.EnumValue(choice, choice) for choice in inner])
        return _SCALARS[type(inner[0])]
    if origin in (list, tuple):
        return dg.Array(_type(inner[0], name, None, preset))
    if origin is dict:
        return dg.Map(_type(inner[0], name, None, preset), _type(inner[1], name, None, preset))
    if hasattr(annotation, "__metadata__"):  # Annotated, as PositiveInt is
        return _type(inner[0], name, now, preset)
    raise TypeError(f"{name}: the launchpad has no type for {annotation!r}")


def _words(field: FieldInfo, now: Any, preset: str) -> str:
    """Meaning, limits, and the value that stands where nothing is asked for."""
    said = [field.description] if field.description else []
    said += [text for part in field.metadata if (text := _limit(part))]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if choices:
        said.append(f"one of {', '.join(map(str, choices))}")
    if not isinstance(now, Mapping):
        said.append(f"{preset}: {now}")
    return "; ".join(said)


def _limit(part: Any) -> str:
    limits = {
        annotated_types.Ge: ("ge", "at least"),
        annotated_types.Gt: ("gt", "above"),
        annotated_types.Le: ("le", "at most"),
        annotated_types.Lt: ("lt", "below"),
        annotated_types.MultipleOf: ("multiple_of", "a multiple of"),
        annotated_types.MinLen: ("min_length", "at least this many entries:"),
    }
    for kind, (attribute, words) in limits.items():
        if isinstance(part, kind):
            return f"{words} {getattr(part, attribute)}"
    return ""
