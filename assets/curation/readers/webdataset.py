"""A WebDataset tar: members that share a key are one sample. A member's URI is read by range, its tar not opened again.

The key is the name up to the first dot: `001.jpg`, `001.txt`, `001.json`, `001.cls` and `001.mask.png` belong together,
also where other members lie between them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from assets.curation.readers.items import (
    HEAD,
    MASK_SUFFIX,
    SIDE_SUFFIXES,
    Item,
    looks_like_picture,
    may_be_picture,
)
from assets.curation.readers.pictures import SIDE_LIMIT, Draft, finish
from assets.curation.readers.places import shown
from assets.curation.readers.spool import Entry, Spool
from assets.curation.readers.tar_index import TarDamage, members
from infra.uris import member_uri, open_uri


def read_tar(uri: str, etag: str) -> Iterator[Item]:
    """The pictures of the tar `uri` (file:// or s3://), sorted by name; one Item with a problem where it breaks off.

    Raises BackdropError when the tar is missing or may not be read.
    """
    with Spool() as spool:
        damage = _index(uri, etag, spool)
        for name, entries, _ in spool.names():
            if not name.endswith((MASK_SUFFIX, *SIDE_SUFFIXES)):
                yield from (item for entry in entries if (item := finish(_draft(uri, entry, spool))) is not None)
    if damage is not None:
        what = f"the tar {shown(uri)} cannot be read from byte {damage.at} on: {damage}"
        yield Item(f"{uri}#{damage.at}", source=shown(uri), etag=etag, problem=what)


def _index(uri: str, etag: str, spool: Spool) -> TarDamage | None:
    """One pass over the tar: where the pictures lie, and the bytes of the small files that speak about them."""
    with open_uri(uri) as stream:
        try:
            for member in members(stream):
                data = None
                if member.name.endswith(SIDE_SUFFIXES):
                    data = stream.read(member.size) if member.size <= SIDE_LIMIT else b""
                elif not member.name.endswith(MASK_SUFFIX):
                    wanted = may_be_picture(member.name)
                    if wanted is None:
                        wanted = looks_like_picture(stream.read(min(HEAD, member.size)))
                    if not wanted:
                        continue
                place = member_uri(uri, member.offset, member.size)
                spool.add(Entry(member.name, place, member.size, etag, member.offset, data))
        except TarDamage as damage:
            return damage
    return None


def _draft(uri: str, entry: Entry, spool: Spool) -> Draft:
    folder, base = posixpath.split(entry.name)
    # 'a.v2.jpg' has the key 'a'; its own 'a.v2.txt' is taken as well.
    stems = dict.fromkeys((posixpath.splitext(entry.name)[0], posixpath.join(folder, base.split(".", 1)[0])))
    masks = [found for stem in stems for found in spool.find(stem + MASK_SUFFIX)]
    return Draft(
        uri=entry.uri,
        entry=entry,
        row={"captions": [], "attributes": {}},
        sides=tuple(side for suffix in SIDE_SUFFIXES for stem in stems for side in spool.find(stem + suffix)),
        mask_uri=masks[-1].uri if masks else None,
        lenient=True,
        source=f"{shown(uri)}/{entry.name}",
    )
