"""What a delivery contains: pictures with captions, masks, splits and licences, from a folder or an s3:// prefix.

Captions come from ``manifest.jsonl`` and ``captions.jsonl`` (in any folder of the delivery, paths relative to it) and
from sidecars ``<name>.txt`` (a caption per line) and ``<name>.json``; masks from the manifest's ``mask`` column or
``<name>.mask.png``. Every picture found is taken, listed or not; a mask is never taken for a picture.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from infra.errors import BackdropError
from infra.object_store import list_uri, path_of, read_uri

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
TABLES = ("captions.jsonl", "manifest.jsonl")
_MASK_SUFFIX = ".mask.png"


@dataclass(frozen=True)
class Item:
    """One picture of a delivery, not yet read."""

    uri: str
    captions: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    split: str = "train"
    licence: str | None = None
    source: str = ""
    mask_uri: str | None = None


def read_delivery(uri: str) -> Iterator[Item]:
    """The pictures below `uri` (a folder, file:// or s3:// prefix), sorted by URI.

    Raises BackdropError when there is no such place, when it is empty or holds no picture, and for a caption file
    that does not parse (naming the file and the line).
    """
    if not uri.startswith("s3://"):
        uri = path_of(uri).as_uri()
    found = list(list_uri(uri))
    if not found:
        raise BackdropError(
            f"the delivery {_shown(uri)} is empty", "put pictures there, or give another folder or prefix"
        )
    names = {_relative(uri, item): item for item in found}
    rows = _read_tables(uri, names)
    masks = {row["mask"] for row in rows.values() if row.get("mask")}
    pictures = sorted({name for name in names if _is_picture(name) and name not in masks} | set(rows))
    if not any(name in names for name in pictures):
        some = ", ".join(sorted(names)[:3])
        raise BackdropError(
            f"the delivery {_shown(uri)} holds {len(names)} files but no picture (for example {some})",
            f"pictures end in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    for name in pictures:
        # A listed picture that is not there is an item all the same: it gets a row and a reason, not silence.
        yield _item(uri, name, names, rows.get(name, {}))


def _item(uri: str, name: str, names: Mapping[str, str], row: Mapping[str, Any]) -> Item:
    stem = posixpath.splitext(name)[0]
    captions = list(row.get("captions", ()))
    extra = dict(row.get("attributes", {}))
    if f"{stem}.txt" in names:
        captions += _lines_of(names[f"{stem}.txt"])
    if f"{stem}.json" in names:
        side = _sidecar(names[f"{stem}.json"])
        captions += side["captions"]
        extra.update(side["attributes"])
    mask = row.get("mask") or (stem + _MASK_SUFFIX if stem + _MASK_SUFFIX in names else None)
    if mask is not None and mask not in names:
        raise BackdropError(
            f"the mask {mask} of {name} is not in the delivery {_shown(uri)}", "deliver the mask or take it out"
        )
    place = names.get(name) or _below(uri, name)
    return Item(
        uri=place,
        captions=tuple(dict.fromkeys(captions)),
        attributes=extra,
        split=row.get("split", "train"),
        licence=row.get("licence"),
        source=row.get("source") or place,
        mask_uri=names[mask] if mask is not None else None,
    )


def _is_picture(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.endswith(_MASK_SUFFIX) and not hidden


def _relative(uri: str, item: str) -> str:
    """The path of `item` below `uri`; for a single file its name."""
    root = uri.rstrip("/") + "/"
    name = item[len(root) :] if item.startswith(root) else item.rsplit("/", 1)[-1]
    return name if uri.startswith("s3://") else unquote(name)


def _below(uri: str, name: str) -> str:
    return f"{uri.rstrip('/')}/{name if uri.startswith('s3://') else quote(name)}"


def _read_tables(uri: str, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """All rows of all tables, by the picture's path below the delivery; a manifest's columns win over captions'."""
    rows: dict[str, dict[str, Any]] = {}
    tables = [name for name in names if name.rsplit("/", 1)[-1] in TABLES]
    for table in sorted(tables, key=lambda name: (TABLES.index(name.rsplit("/", 1)[-1]), name)):
        folder = posixpath.dirname(table)
        for number, line in enumerate(read_uri(names[table]).split(b"\n"), start=1):
            if not line.strip():
                continue
            where = f"{_shown(names[table])}, line {number}"
            path, row = parse_row(line, folder, where)
            known = rows.setdefault(path, {"captions": [], "attributes": {}})
            known["captions"] = list(dict.fromkeys([*known["captions"], *row.pop("captions")]))
            known["attributes"].update(row.pop("attributes"))
            known.update(row, table=names[table])
    return rows


def parse_row(line: bytes, folder: str, where: str) -> tuple[str, dict[str, Any]]:
    """One line of a table → (path below the delivery, {captions, attributes, and what of mask, split, … is given}).

    Raises BackdropError naming `where`.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BackdropError(
            f"{where}: not valid JSON ({error})", "correct the line; one JSON object per line"
        ) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("path"), str) or not raw["path"]:
        raise BackdropError(f"{where}: no 'path'", 'every line is an object like {"path": "a.jpg", "caption": "…"}')
    row: dict[str, Any] = {
        "captions": captions_of(raw, where),
        "attributes": _object(raw.get("attributes"), "attributes", where),
    }
    split = raw.get("split", "train")
    if split not in ("train", "holdout"):
        raise BackdropError(f"{where}: the split is {split!r}", "use 'train' or 'holdout'")
    if "split" in raw:
        row["split"] = split
    if raw.get("mask"):
        row["mask"] = _inside(folder, raw["mask"], where)
    for name, value in (("licence", raw.get("licence") or raw.get("license")), ("source", raw.get("source"))):
        if value:
            row[name] = str(value)
    return _inside(folder, raw["path"], where), row


def captions_of(raw: Mapping[str, Any], where: str) -> list[str]:
    """The non-empty captions of a row: `captions` (a list) and `caption`. Raises BackdropError for other types."""
    values = raw.get("captions") or []
    values = [values] if isinstance(values, str) else values
    if raw.get("caption") is not None:
        values = [raw["caption"], *values] if isinstance(values, list) else values
    if not isinstance(values, list) or any(not isinstance(value, str) for value in values):
        raise BackdropError(f"{where}: a caption is not a string", "write captions as strings or a list of strings")
    return list(dict.fromkeys(value.strip() for value in values if value.strip()))


def _object(value: Any, name: str, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BackdropError(f"{where}: '{name}' is not an object", f"write {name} as a JSON object")
    return value


def _inside(folder: str, path: Any, where: str) -> str:
    """`path` relative to `folder`, as a path below the delivery."""
    joined = posixpath.normpath(posixpath.join(folder, path)) if isinstance(path, str) else ".."
    if joined.startswith(("..", "/")):
        raise BackdropError(f"{where}: {path!r} is not below the delivery", "give paths relative to the table's folder")
    return joined


def _lines_of(uri: str) -> list[str]:
    try:
        text = read_uri(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BackdropError(f"the caption file {_shown(uri)} is not UTF-8 ({error})", "save it as UTF-8 text") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _sidecar(uri: str) -> dict[str, Any]:
    where = _shown(uri)
    try:
        raw = json.loads(read_uri(uri))
    except (ValueError, RecursionError) as error:
        raise BackdropError(f"the caption file {where} is not valid JSON ({error})", "correct the file") from None
    if isinstance(raw, str):
        raw = {"caption": raw}
    if not isinstance(raw, dict):
        raise BackdropError(f"the caption file {where} is not a JSON object", 'write {"caption": "…"}')
    return {"captions": captions_of(raw, where), "attributes": _object(raw.get("attributes"), "attributes", where)}


def _shown(uri: str) -> str:
    """A URI as a person would write it."""
    return str(path_of(uri)) if uri.startswith("file://") else uri
