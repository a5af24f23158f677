"""The one entry: what kind of delivery is it, and is there any picture in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from assets.curation.readers.folder import read_folder
from assets.curation.readers.items import PACKED_SUFFIXES, TAR_SUFFIX, Item
from assets.curation.readers.manifest import read_manifest
from assets.curation.readers.places import shown
from assets.curation.readers.tables import MANIFEST_SUFFIXES
from assets.curation.readers.webdataset import read_tar
from infra.errors import BackdropError
from infra.uris import file_uri, list_objects, path_of


def read_delivery(uri: str) -> Iterator[Item]:
    """The pictures of a delivery, streamed, in an order that depends on its content alone; memory does not grow.

    `uri`: a folder, a plain path, file:// or s3:// prefix (pictures, WebDataset tars, tables and side files), one
    .tar, or one .jsonl or .parquet manifest. What cannot be a picture but stands for one (a row without a URI, a tar
    cut short) is an Item with a `problem`.

    Raises BackdropError (one for the delivery) when it is missing, closed, empty or without a picture, and for a
    caption file that does not parse; ServiceError when a bucket does not answer.
    """
    place = uri if uri.startswith("s3://") else file_uri(str(path_of(uri)))
    first, good = "", False
    try:
        for item in _read(place):
            first, good = first or item.problem, good or not item.problem
            yield item
    except sqlite3.OperationalError as error:
        raise BackdropError(
            f"the listing of {shown(place)} could not be written to a temporary file ({error})",
            "free some space, or point TMPDIR at a larger disk",
        ) from error
    if not good:
        raise BackdropError(f"the delivery {shown(place)} holds no picture that can be read: {first}", "correct it")


def _read(uri: str) -> Iterator[Item]:
    suffixes = (TAR_SUFFIX, *PACKED_SUFFIXES, *MANIFEST_SUFFIXES)
    # Only such a name is worth asking a bucket whether it is an object; it may also be a prefix.
    found = next(list_objects(uri), None) if uri.lower().endswith(suffixes) else None
    if found is None or found.uri != uri:
        return read_folder(uri)
    if uri.lower().endswith(TAR_SUFFIX):
        return read_tar(uri, found.etag)
    return read_manifest(uri) if uri.lower().endswith(MANIFEST_SUFFIXES) else read_folder(uri)
