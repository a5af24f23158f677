"""What one row of a table, or one side file, says about a picture: pure parsing, with errors that name the place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from infra.errors import BackdropError

PLACES = ("uri", "path", "url")  # in this order; a `url` beside another place is where the picture came from
COLUMNS = (*PLACES, "caption", "captions", "text", "mask", "licence", "license", "source", "split", "attributes")


def parse_json(text: bytes, where: str) -> Any:
    """JSON in UTF-8, made fit for a database. Raises BackdropError naming `where`."""
    try:
        return clean(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise BackdropError(
            f"{where}: not valid JSON ({error})", "correct it; a table has one object per line"
        ) from None


def clean(value: Any) -> Any:
    """`value` as PostgreSQL can hold it: no NUL, no lone surrogate, no NaN; what JSON does not know becomes text."""
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else _text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(name)): clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return _text(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def _text(value: str) -> str:
    return value.replace("\0", "").encode("utf-8", "replace").decode()


def parse_row(raw: Any, where: str, lenient: bool) -> tuple[str, str | None, dict[str, Any]]:
    """A table's row → (where the picture is, as written; where its mask is, as written; what is said about it).

    The third holds `captions` and `attributes`, and `split`, `licence`, `source` where given. `lenient`: a caption
    that is none costs the caption (attribute `caption_problem`), not the row. Raises BackdropError naming `where`.
    """
    if not isinstance(raw, Mapping):
        raw = {}
    given = [name for name in PLACES if isinstance(raw.get(name), str) and raw[name].strip()]
    if not given:
        raise BackdropError(f"{where}: no 'path', 'uri' or 'url'", 'write rows like {"path": "a.jpg", "caption": "…"}')
    row = parse_note(raw, where, lenient)
    split = raw.get("split") or "train"
    if split not in ("train", "holdout"):
        raise BackdropError(f"{where}: the split is {split!r}", "use 'train' or 'holdout'")
    if raw.get("split"):
        row["split"] = split
    mask = raw.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise BackdropError(f"{where}: the mask is {mask!r}", "write the mask's path or URI")
    return raw[given[0]], mask or None, row


def parse_note(raw: Mapping[str, Any], where: str, lenient: bool) -> dict[str, Any]:
    """`captions`, `attributes`, and where given `licence` and `source` (else `url`) of a row or a side file."""
    note: dict[str, Any] = {"captions": [], "attributes": {}}
    try:
        note["attributes"] = attributes_of(raw.get("attributes"), where)
        note["captions"] = captions_of(raw, where)
    except BackdropError as error:
        if not lenient:
            raise
        note["attributes"]["caption_problem"] = error.what
    sides = {"licence": raw.get("licence") or raw.get("license"), "source": raw.get("source") or raw.get("url")}
    return note | {name: str(value) for name, value in sides.items() if value}


def captions_of(raw: Mapping[str, Any], where: str) -> list[str]:
    """The captions of `caption`, `captions` and `text` (each a string or a list), stripped, each once, in this order.

    Raises BackdropError for other types.
    """
    values: list[Any] = []
    for name in ("caption", "captions", "text"):
        value = raw.get(name)
        values += value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(value, str | None) for value in values):
        raise BackdropError(f"{where}: a caption is not a string", "write captions as strings or a list of strings")
    return list(dict.fromkeys(value.strip() for value in values if value and value.strip()))


def attributes_of(value: Any, where: str) -> dict[str, Any]:
    """An object, JSON text of one, or parquet's map (a list of pairs). Raises BackdropError for anything else."""
    if value is None:
        return {}
    if isinstance(value, str):
        value = parse_json(value.encode(), f"{where}, attributes")
    if isinstance(value, list) and value and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        value = {str(name): item for name, item in value}
    if not isinstance(value, Mapping):
        raise BackdropError(f"{where}: 'attributes' is not an object", "write attributes as a JSON object")
    return dict(value)
