"""The fields of a request's form, typed. Pure; every wrong one is a refusal in words."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from deploy.studio.limits import Limits
from deploy.studio.refusal import Refusal
from infra.errors import nearest


class Task(StrEnum):
    """What the one model does."""

    BACKGROUND = "background"
    EXPAND = "expand"
    FILL = "fill"
    ERASE = "erase"


class Side(StrEnum):
    """Whose answers are wanted."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    BOTH = "both"


FORMATS = ("png", "webp")
FILES = ("photograph", "mask")
FIELDS = ("prompt", "negative", "seed", "k", "format", "side", "ratio", "margins", "sample")
#: What is painted when nothing is said. Background and Fill have to be told.
UNSAID = {
    Task.EXPAND: "the same floor and the same wall going on",
    Task.ERASE: "an empty floor against an empty wall",
}
_SEEDS = 2**64


@dataclass(frozen=True)
class Asked:
    """A request without its pictures. `margins`: pixels to add on the left, top, right and bottom."""

    task: Task
    prompt: str
    negative: str = ""
    seed: int = 0
    k: int = 4
    format: str = "png"
    side: Side = Side.CHAMPION
    ratio: tuple[int, int] | None = None
    margins: tuple[int, int, int, int] | None = None
    sample: str = ""

    @property
    def sides(self) -> tuple[str, ...]:
        """The aliases to ask."""
        return ("champion", "challenger") if self.side is Side.BOTH else (str(self.side),)


def parse_fields(task: Task, form: Mapping[str, str], limits: Limits) -> Asked:
    """Raises Refusal (422) for an unknown field, or a value that a field does not take."""
    for name in form:
        if name not in FIELDS:
            known = (*FILES, *FIELDS)
            raise _wrong(f"There is no field '{name[:40]}'.{nearest(name, known)}", f"Fields are {', '.join(known)}.")
    prompt = _words("prompt", form.get("prompt", ""), limits.prompt) or UNSAID.get(task, "")
    if not prompt:
        raise _wrong(
            "The prompt is empty.", "Say in words what is to be painted, such as: on a blue floor against a red wall."
        )
    ratio, margins = form.get("ratio", "").strip(), form.get("margins", "").strip()
    if (ratio or margins) and task is not Task.EXPAND:
        raise _wrong("Only Expand takes ratio and margins.", "Leave them out.")
    if task is Task.EXPAND and bool(ratio) == bool(margins):
        raise _wrong("Expand needs a ratio or margins, one of the two.", "Give ratio=16:9, or margins=200,0,200,0.")
    return Asked(
        task,
        prompt,
        _words("negative", form.get("negative", ""), limits.prompt),
        _seed(form.get("seed", "")),
        _count(form.get("k", ""), limits.candidates),
        _one_of("format", form.get("format", ""), FORMATS),
        Side(_one_of("side", form.get("side", ""), tuple(Side))),
        _ratio(ratio) if ratio else None,
        _margins(margins) if margins else None,
        form.get("sample", "").strip(),
    )


def _wrong(what: str, remedy: str) -> Refusal:
    return Refusal(422, "field", what, remedy)


def _words(name: str, text: str, most: int) -> str:
    """The text without control characters and outer space. Raises Refusal for one that is too long."""
    text = text.replace("\r\n", "\n")  # how browsers send a line's end, which the page counts as one
    if len(text) > most:
        raise Refusal(
            422, "prompt", f"The {name} has {len(text):,} characters, {most:,} are allowed.", "Say it in fewer words."
        )
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()


def _seed(text: str) -> int:
    if not text.strip():
        return secrets.randbelow(2**31)
    if not re.fullmatch(r"[0-9]{1,20}", text.strip()) or int(text) >= _SEEDS:
        raise _wrong(f"The seed {text[:40]!r} is no whole number from 0 to {_SEEDS - 1}.", "Leave it out for any.")
    return int(text)


def _count(text: str, most: int) -> int:
    if not text.strip():
        return most
    if not re.fullmatch(r"[0-9]{1,3}", text.strip()) or not 1 <= int(text) <= most:
        raise _wrong(f"k is {text[:40]!r}, the number of candidates is 1 to {most}.", f"Give k=1 to k={most}.")
    return int(text)


def _one_of(name: str, text: str, known: tuple[str, ...]) -> str:
    value = text.strip().lower() or known[0]
    if value not in known:
        raise _wrong(f"The {name} {text[:40]!r} is none.{nearest(value, known)}", f"Give {' or '.join(known)}.")
    return value


def _ratio(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,4})\s*[:x/]\s*([0-9]{1,4})", text)
    if not found or not int(found[1]) or not int(found[2]):
        raise _wrong(f"The ratio {text[:40]!r} is none.", "Give width:height, such as 16:9.")
    return int(found[1]), int(found[2])


def _margins(text: str) -> tuple[int, int, int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(re.fullmatch(r"[0-9]{1,5}", part) for part in parts):
        raise _wrong(
            f"The margins {text[:40]!r} are no four whole numbers of pixels.",
            "Give left,top,right,bottom, such as 200,0,200,0.",
        )
    left, top, right, bottom = (int(part) for part in parts)
    return left, top, right, bottom
