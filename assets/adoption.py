"""When a training asset takes a newer dataset version: each pins the one it was made on, and a policy decides.

    newest ─► withdrawn? ─► always? ─► asked? ─► made anyway? ─► enough new images? ─► stays with its pin

Autoencoder and pretrained model are expensive and change little with a few new pictures; what follows them is cheap and
always takes the newest. A stage that stays has the data version it had, so nothing runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel

from assets.stage import latest_metadata
from assets.versions import short
from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes
from infra.sources import source_hash
from training.presets.sections import without_operation
from training.text_source import identity

if TYPE_CHECKING:
    from assets.line import Line
    from infra.settings import Settings
    from training.presets.sections import Section

PINNED = frozenset({"autoencoder", "pretrained_dit"})
"""The stages that stay with their dataset version until the policy says otherwise."""


@dataclass(frozen=True)
class Policy:
    """`mode`: "share", "all" or "pinned", as BACKDROP_ADOPT says; `share`: new images over those seen."""

    mode: str = "share"
    share: float = 0.2

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        return cls(settings.adopt, settings.adopt_share)


@dataclass(frozen=True)
class Pin:
    """What a stage knows when it chooses.

    `pinned`: the dataset version that it was last made on, None if it never was; `seen`: its images for training;
    `new`: images of `newest` that are not among them; `withdrawn`: why the pinned version must not be used any more;
    `changed`: the stage would be made again on it, for its code, configuration or an input is another; `asked`:
    somebody wants the newest.
    """

    asset: str
    newest: str
    pinned: str | None = None
    seen: int = 0
    new: int = 0
    withdrawn: str | None = None
    changed: bool = False
    asked: bool = False


@dataclass(frozen=True)
class Adoption:
    """The dataset version that a stage is made on, and why it is that one."""

    version: str
    why: str


def choose(pin: Pin, policy: Policy) -> Adoption:
    """The policy. Pure."""
    reason = _reason(pin, policy)
    if pin.pinned is None:
        return Adoption(pin.newest, f"takes {short(pin.newest)}: it was not made before")
    if pin.pinned == pin.newest:
        return Adoption(pin.newest, f"is on the newest dataset version, {short(pin.newest)}")
    if reason is not None:
        return Adoption(pin.newest, f"adopts {short(pin.newest)}: {reason}")
    kept = f"stays with {short(pin.pinned)}: {new_images(pin.new, pin.seen)}"
    if policy.mode == "pinned":
        return Adoption(pin.pinned, f"{kept}, and BACKDROP_ADOPT=pinned adopts on request only")
    return Adoption(pin.pinned, f"{kept}, below {percent(policy.share)}")


def _reason(pin: Pin, policy: Policy) -> str | None:
    """Why the newest is adopted; None where the stage stays."""
    if pin.withdrawn is not None:
        return f"the dataset version before was withdrawn ({pin.withdrawn})"
    if pin.asset not in PINNED:
        return "it always takes the newest"
    if pin.asked:
        return "it was asked to"
    if policy.mode == "all":
        return "BACKDROP_ADOPT=all takes every new one"
    if pin.changed:
        return "its code, its configuration or a model before it has changed, so it is made again anyway"
    if policy.mode == "share" and reaches(pin.new, pin.seen, policy.share):
        return new_images(pin.new, pin.seen)
    return None


def reaches(new: int, seen: int, share: float) -> bool:
    """Whether `new` images are at least `share` of those seen; where nothing was seen, any are."""
    return new > 0 if not seen else new / seen >= share


def new_images(new: int, seen: int) -> str:
    """As people read it: "4 % new images (40 beside 1,000)"."""
    if not seen:
        return f"{new:,} new images, of a dataset version that held none"
    return f"{percent(new / seen)} new images ({new:,} beside {seen:,})"


def percent(share: float) -> str:
    """Rounded down to a tenth, so that 19.96 % does not read as the 20 % that it has not reached."""
    tenths = math.floor(share * 1000 + 1e-9)
    return f"{tenths // 10} %" if tenths % 10 == 0 else f"{tenths / 10:.1f} %"


def adopt(
    context: dg.AssetExecutionContext,
    line: Line,
    asset: str,
    newest: str,
    *,
    asked: bool = False,
    made_on: Callable[[str], bool] = lambda _: True,
) -> Adoption:
    """The choice of `asset` with what instance and catalog know. `made_on`: whether the stage as it is now has a result
    on that dataset version. Raises BackdropError while the newest is itself withdrawn."""
    if why := line.catalog.withdrawn(newest):
        raise BackdropError(
            f"the dataset version {short(newest)} of training_set was withdrawn: {why}",
            "materialise training_set, which leaves out what was taken down, and then this",
        )
    pin = pin_of(context.instance, line, asset, newest, asked=asked)
    if pin.asset in PINNED and pin.pinned not in (None, newest) and not made_on(str(pin.pinned)):
        pin = Pin(**{**vars(pin), "changed": True})
    found = choose(pin, Policy.of(line.settings))
    context.log.info("%s %s", asset, found.why)
    return found


def pin_of(instance: dg.DagsterInstance, line: Line, asset: str, newest: str, *, asked: bool = False) -> Pin:
    """What the records say of an asset; `newest` need not be recorded where the asset is on it or was never made."""
    pinned = pinned_version(instance, asset)
    if pinned is None or pinned == newest:
        return Pin(asset, newest, pinned, asked=asked)
    version = line.catalog.dataset_version(newest)
    growth = line.catalog.growth(pinned, version.slices if version else ())
    withdrawn = line.catalog.withdrawn(pinned)
    return Pin(asset, newest, pinned, growth.seen, growth.new, withdrawn, asked=asked)


def pinned_version(instance: dg.DagsterInstance, asset: str) -> str | None:
    """The dataset version that the asset was last made on."""
    found = latest_metadata(instance, asset)
    return str(found["dataset_version"]) if found and found.get("dataset_version") else None


def recipe_mark(
    line: Line, recipe: str, section: Section, spec: type[BaseModel], sources: Callable[[str], str] = source_hash
) -> str:
    """What a stage is made with beside its inputs: the recipe's sources and its configuration, as one short hash.

    `section`: its section of the preset; `spec`: its job's, whose fields say what else of the preset it reads.
    """
    parts: dict[str, Any] = {"section": section.model_dump(mode="json")}
    for name in ("image_size", "seed", "dit"):
        if name in spec.model_fields:
            value = getattr(line.preset, name)
            parts[name] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    if "text_encoder" in spec.model_fields:
        parts["text_encoder"] = identity(line.settings.text_encoder)
    config = without_operation(parts)
    return short(sha256_bytes(canonical_json({"sources": sources(recipe), "config": config})))
