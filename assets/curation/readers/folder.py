"""A folder or a bucket's prefix: every picture found, listed or not, and the WebDataset tars among them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from itertools import groupby

from assets.curation.readers.items import (
    IMAGE_SUFFIXES,
    MASK_SUFFIX,
    PACKED_SUFFIXES,
    SIDE_SUFFIXES,
    TAR_SUFFIX,
    Item,
    may_be_picture,
)
from assets.curation.readers.pictures import Draft, finish_all, merge_rows
from assets.curation.readers.places import shown
from assets.curation.readers.spool import Entry, Row, Spool
from assets.curation.readers.tables import TABLES, load_table
from assets.curation.readers.webdataset import read_tar
from infra.errors import BackdropError
from infra.uris import list_objects, parse_member

Found = Draft | Item | Entry  # a picture; something that cannot be one; a tar


def read_folder(uri: str) -> Iterator[Item]:
    """The pictures below the folder, or the one file, `uri` (file:// or s3://), sorted by name.

    Raises BackdropError when there is no such place, when it is empty or holds no picture, when a mask that is named
    is not there, and for a caption file that does not parse (naming the file and the line).
    """
    with Spool() as spool:
        _list(uri, spool)
        some = spool.some(3)
        if not some:
            raise BackdropError(
                f"the delivery {shown(uri)} is empty", "put pictures there, or give another folder or prefix"
            )
        for name, place in spool.tables():
            load_table(place, uri, posixpath.dirname(name), spool, confined=True)
        nothing = True
        for item in _items(_found(uri, spool), remote=uri.startswith("s3://")):
            nothing = False
            yield item
        if nothing:
            raise BackdropError(
                f"the delivery {shown(uri)} holds {spool.count()} files but no picture (for example"
                f" {', '.join(map(shown, some))})",
                f"pictures end in {', '.join(sorted(IMAGE_SUFFIXES))}; a manifest with another name is given as its"
                " own URI",
            )


def _list(uri: str, spool: Spool) -> None:
    for found in list_objects(uri):
        spool.add(Entry(found.name, found.uri, found.size, found.etag))
        base = posixpath.basename(found.name)
        if base in TABLES:
            spool.add_table(TABLES.index(base), found.name, found.uri)


def _items(found: Iterator[Found], remote: bool) -> Iterator[Item]:
    """Pictures as they come; a run of them is finished with read-ahead, a tar when its turn comes."""
    for pictures, group in groupby(found, key=lambda one: isinstance(one, Draft)):
        if pictures:
            yield from finish_all((one for one in group if isinstance(one, Draft)), remote)
        else:
            for one in group:
                if isinstance(one, Item):
                    yield one
                elif isinstance(one, Entry):
                    yield from _tar_items(one)


def _tar_items(tar: Entry) -> Iterator[Item]:
    try:
        yield from read_tar(tar.uri, tar.etag)
    except BackdropError as error:
        if error.exit_code != BackdropError.exit_code:  # the service is away, which says nothing about this tar
            raise
        yield _refused(tar, error.what)


def _refused(entry: Entry, problem: str) -> Item:
    return Item(entry.uri, source=shown(entry.uri), etag=entry.etag, bytes=entry.size, problem=problem)


def _found(root: str, spool: Spool) -> Iterator[Found]:
    for name, entries, rows in spool.names():
        entry = entries[0] if entries else None
        lower = name.lower()
        hidden = name.startswith(".") or "/." in name
        if entry is not None and parse_member(entry.uri) and not hidden:
            yield _refused(entry, f"the key {shown(entry.uri)} reads like a part of a tar: give it another name")
        elif entry is not None and lower.endswith(TAR_SUFFIX) and not hidden:
            yield entry
        elif entry is not None and lower.endswith(PACKED_SUFFIXES) and not hidden:
            yield _refused(entry, f"{shown(entry.uri)} is compressed; deliver it as an uncompressed .tar")
        elif rows:
            yield _draft(root, name, entry, rows, spool)
        elif entry is not None and (wanted := _wanted(entry)) is not False and not spool.is_mask(name):
            yield _draft(root, name, entry, [], spool, look=wanted is None)


def _wanted(entry: Entry) -> bool | None:
    """`may_be_picture`, except that an empty file without a picture's name is none without a look."""
    wanted = may_be_picture(entry.name)
    return False if wanted is None and entry.size == 0 else wanted


def _draft(root: str, name: str, entry: Entry | None, rows: list[Row], spool: Spool, look: bool = False) -> Draft:
    row = merge_rows(rows)
    stem = posixpath.splitext(name)[0]
    uri = entry.uri if entry is not None else rows[0].uri
    if entry is None and name != uri:
        row.setdefault("problem", f"{row['table']}: {name} is not in the delivery")
    return Draft(
        uri=uri,
        entry=entry,
        row=row,
        sides=tuple(side for suffix in SIDE_SUFFIXES for side in spool.find(stem + suffix)),
        mask_uri=_mask_uri(root, name, row.get("mask"), row.get("mask_uri"), spool),
        look=look,
    )


def _mask_uri(root: str, name: str, mask: str | None, mask_uri: str | None, spool: Spool) -> str | None:
    if mask is None:
        beside = spool.find(posixpath.splitext(name)[0] + MASK_SUFFIX)
        return beside[0].uri if beside else None
    if mask == mask_uri:  # not below the delivery: whoever reads it learns whether it is there
        return mask_uri
    inside = spool.find(mask)
    if not inside:
        raise BackdropError(
            f"the mask {mask} of {name} is not in the delivery {shown(root)}", "deliver the mask or take it out"
        )
    return inside[0].uri
