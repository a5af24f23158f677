"""What a job is told (its spec) and what it reports back (its result)."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import BackdropError, nearest

JOULES = "joules"
"""In a result's metadata: the energy that its GPUs took, also behind a stage's name ("pretrain_joules")."""


class JobSpec(BaseModel):
    """The base of every spec. ``output`` is a key prefix without a trailing slash: all that others read is
    below it.

    A spec says *what* to make, so nothing that changes from one orchestrating run to the next (a run id, a
    time) belongs in it: a restarted orchestrator recognises its running job by an equal spec.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str
    output: str = Field(pattern=r"[^/]$")

    @property
    def processes(self) -> int:
        """How many processes the job computes in, where nothing outside has started them (`infra.jobs.ranks`)."""
        return 1

    def sliced(self, index: int, count: int) -> Self:
        """The part of this spec that one of `count` processes does, where processes share it without speaking."""
        raise BackdropError(f"a {type(self).__name__} cannot be shared by {count} processes")


EXAMPLES = 8
"""How many of the failing examples a check's own picture shows at most."""


class Check(BaseModel):
    """One named check of a job's product; a failed ``error`` stops what comes after it, a failed ``warn``
    does not. ``pictures``: title → store key of the PNGs that belong to it; its own has ``failures_title``.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    passed: bool
    severity: Literal["error", "warn"] = "error"
    metadata: dict[str, Any] = Field(default_factory=dict)
    pictures: dict[str, str] = Field(default_factory=dict)

    @property
    def failures_title(self) -> str:
        """The title of the picture of the examples that fail it: no other picture of the result has it."""
        return f"Failures of {self.name}"


class JobResult(BaseModel):
    """What a job hands back.

    ``metadata``: plain numbers and strings for people; ``data``: the same for the next assets; ``files``:
    name → store key; ``pictures``: title → store key of a PNG, shown in this order; ``checks``: what was
    asserted about it; ``shows``: store key of a picture or page → ids of the delivered images that can be seen
    in it (charts and generated pictures show none).
    """

    model_config = ConfigDict(extra="forbid")

    metadata: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    pictures: dict[str, str] = Field(default_factory=dict)
    checks: list[Check] = Field(default_factory=list)
    shows: dict[str, list[str]] = Field(default_factory=dict)

    @property
    def all_pictures(self) -> dict[str, str]:
        """Its own and those of its checks: title → store key."""
        return self.pictures | {title: key for check in self.checks for title, key in check.pictures.items()}

    @property
    def joules(self) -> float:
        """The energy that its stages took, as far as they measured it."""
        names = [name for name in self.metadata if name == JOULES or name.endswith(f"_{JOULES}")]
        return float(sum(self.metadata[name] for name in names))


S = TypeVar("S", bound=BaseModel)


def parse_spec(kind: type[S], text: bytes | str, where: str) -> S:
    """``text`` (JSON) as a ``kind``; every problem in one BackdropError that names ``where`` and the nearest
    known key.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = [_problem(kind, dict(item)) for item in error.errors(include_url=False)]
        raise BackdropError(
            f"the {kind.__name__} at {where} is not valid: " + "; ".join(problems),
            f"correct the spec; {kind.__name__} takes {', '.join(kind.model_fields)}",
        ) from None


def _problem(kind: type[BaseModel], item: dict[str, Any]) -> str:
    place: tuple[Any, ...] = item["loc"]
    name = ".".join(str(part) for part in place)
    if item["type"] == "extra_forbidden":
        return f"unknown key '{name}'." + nearest(str(place[-1]), _known_keys(kind, place[:-1]))
    if item["type"] == "missing":
        return f"'{name}' is missing"
    # The value itself is left out of the message when it is long: specs can carry whole configuration
    # sections.
    value = repr(item.get("input"))
    return f"'{name}': {item['msg']}" + (f" (got {value})" if name and len(value) < 80 else "")


def _known_keys(kind: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """The field names of the model found by walking ``place`` down from ``kind``; those of ``kind`` if it
    ends nowhere.
    """
    model = kind
    for part in place:
        if part in model.model_fields:
            nested = _model_in(model.model_fields[part].annotation)
            if nested is not None:
                model = nested
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
