"""From what is known about one name to its Item: the side files are read here, the picture is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from assets.curation.readers.items import HEAD, Item, looks_like_picture
from assets.curation.readers.places import shown
from assets.curation.readers.rows import clean, parse_json, parse_note
from assets.curation.readers.spool import Entry, Row
from infra.errors import BackdropError
from infra.uris import read_head, read_uri

SIDE_LIMIT = 1 << 20  # bytes; no caption is longer
_THREADS = 16  # a request to a bucket is nearly all waiting


@dataclass(frozen=True, slots=True)
class Draft:
    """A picture (or, with `look`, what may be one) and the files that speak about it."""

    uri: str
    entry: Entry | None  # None: a table lists it, the delivery does not hold it
    row: dict[str, Any]
    sides: tuple[Entry, ...] = ()
    mask_uri: str | None = None
    look: bool = False  # only the first bytes tell whether it is a picture
    lenient: bool = False  # a bad side file costs its captions, not the delivery: nobody can correct a file in a tar
    source: str = ""  # where no table and no side file names one

    @property
    def waits(self) -> bool:
        """Whether something must be read before it is an Item."""
        return self.look or any(side.data is None for side in self.sides)


def merge_rows(rows: Iterable[Row]) -> dict[str, Any]:
    """All rows about one picture in one: captions in order, each once; of the rest the last that says something."""
    merged: dict[str, Any] = {"captions": [], "attributes": {}}
    for row in (row.row for row in rows):
        merged["captions"] = list(dict.fromkeys(merged["captions"] + row["captions"]))
        merged["attributes"].update(row["attributes"])
        merged.update({name: value for name, value in row.items() if name not in ("captions", "attributes")})
    return merged


def finish(draft: Draft) -> Item | None:
    """The Item; None when a look at the first bytes says that it is no picture. Raises BackdropError."""
    problem = draft.row.get("problem", "")
    if draft.look:
        try:
            if not looks_like_picture(read_head(draft.uri, HEAD)):
                return None
        except BackdropError as error:
            if error.exit_code != BackdropError.exit_code:  # the service is away: not this file's fault
                raise
            problem = problem or error.what
    captions, attributes = list(draft.row["captions"]), dict(draft.row["attributes"])
    given: dict[str, str] = {name: draft.row[name] for name in ("licence", "source") if name in draft.row}
    for side in draft.sides:
        note = read_side(side, draft.lenient)
        captions += note.pop("captions")
        attributes.update(note.pop("attributes"))
        given = {**note, **given}
    return Item(
        uri=draft.uri,
        captions=tuple(dict.fromkeys(captions)),
        attributes=attributes,
        split=draft.row.get("split", "train"),
        licence=given.get("licence"),
        source=clean(given.get("source") or draft.source or draft.uri),
        mask_uri=draft.mask_uri,
        etag=draft.entry.etag if draft.entry else "",
        bytes=draft.entry.size if draft.entry else None,
        problem=problem,
    )


def read_side(side: Entry, lenient: bool) -> dict[str, Any]:
    """What a .txt (a caption per line), .json or .cls (a class label) says, in the form of `parse_note`."""
    where = f"the caption file {shown(side.uri) if side.at == 0 else side.name}"
    try:
        if (side.size or 0) > SIDE_LIMIT:
            raise BackdropError(f"{where} has {side.size} bytes; a caption has at most {SIDE_LIMIT}", "shorten it")
        return _parse_side(side.name, side.data if side.data is not None else read_uri(side.uri), where, lenient)
    except BackdropError as error:
        if not lenient or error.exit_code != BackdropError.exit_code:
            raise
        return {"captions": [], "attributes": {"caption_problem": error.what}}


def _parse_side(name: str, data: bytes, where: str, lenient: bool) -> dict[str, Any]:
    if name.endswith(".json"):
        raw = parse_json(data, where)
        raw = {"caption": raw} if isinstance(raw, str) else raw
        if not isinstance(raw, dict):
            raise BackdropError(f"{where} is not a JSON object", 'write {"caption": "…"}')
        return parse_note(raw, where, lenient)
    try:
        text = clean(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BackdropError(f"{where} is not UTF-8 ({error})", "save it as UTF-8 text") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name.endswith(".cls"):
        return {"captions": [], "attributes": {"cls": lines[0]} if lines else {}}
    return {"captions": lines, "attributes": {}}


def finish_all(drafts: Iterable[Draft], remote: bool) -> Iterator[Item]:
    """The Items in order. Where files are `remote`, a few side files are read ahead at once."""
    found = _ahead(drafts, finish) if remote else map(finish, drafts)
    return (item for item in found if item is not None)


def _ahead(drafts: Iterable[Draft], function: Callable[[Draft], Item | None]) -> Iterator[Item | None]:
    pool = ThreadPoolExecutor(_THREADS)
    pending: deque[Future[Item | None] | Draft] = deque()

    def next_one() -> Item | None:
        first = pending.popleft()
        return first.result() if isinstance(first, Future) else function(first)

    try:
        for draft in drafts:
            pending.append(pool.submit(function, draft) if draft.waits else draft)
            if len(pending) >= 4 * _THREADS:
                yield next_one()
        while pending:
            yield next_one()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
