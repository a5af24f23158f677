"""Where deliveries land: each folder below a watched prefix, once its listing has stood still.

A known delivery is not listed again: what is listed and remembered goes with what has landed since, not with the years.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from assets.deliveries import delivery_name
from infra.files import canonical_json, sha256_bytes

MOST = 500
"""Folders that are listed in one look: a first look at thousands must not outlast Dagster's patience with a sensor."""


def listing_by_folder(prefix: str, known: Collection[str] = (), most: int = MOST) -> dict[str, str]:
    """Each folder directly below `prefix` with the hash of its listing, but for those of `known` deliveries.

    The first `most` that are not empty: once they have landed they are known, and the next ones follow.
    """
    from infra.uris import list_objects

    found: dict[str, str] = {}
    for folder in folders(prefix):
        if len(found) >= most:
            break
        if delivery_name(folder) not in known:
            listing = sorted((one.name, one.size) for one in list_objects(folder))
            if listing:
                found[folder] = sha256_bytes(canonical_json(listing))
    return found


def folders(prefix: str) -> Iterator[str]:
    """The folders directly below a folder or an s3:// prefix, without what is in them."""
    root = prefix.rstrip("/")
    if prefix.startswith("s3://"):
        yield from _s3_folders(root)
        return
    from infra.uris import file_uri, path_of

    place = path_of(prefix)
    if place.is_dir():
        with os.scandir(place) as entries:
            yield from sorted(file_uri(entry.path) for entry in entries if entry.is_dir())


def _s3_folders(root: str) -> Iterator[str]:
    from infra.s3 import client, explained, split_uri

    bucket, prefix = split_uri(f"{root}/")
    with explained(root):
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        for page in pages:
            for entry in page.get("CommonPrefixes", ()):
                yield f"s3://{bucket}/{entry['Prefix'].rstrip('/')}"
