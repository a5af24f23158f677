"""Where a table's row points: a path beside the table, or a URI."""

from __future__ import annotations

import os
import posixpath
from urllib.parse import quote_from_bytes

from infra.errors import BackdropError
from infra.uris import file_uri, path_of


def below(root: str, name: str) -> str:
    """The URI of `name` below the folder `root`."""
    written = name if root.startswith("s3://") else quote_from_bytes(os.fsencode(name))
    return f"{root.rstrip('/')}/{written}"


def shown(uri: str) -> str:
    """A URI as a person would write it, fit for a log or a database."""
    text = str(path_of(uri)) if uri.startswith("file://") and "#" not in uri else uri
    return text.encode("utf-8", "replace").decode()


def locate(written: str, root: str, folder: str, confined: bool) -> tuple[str, str]:
    """`written` in a table in `folder` (relative to `root`) → (name below root, or the URI itself; URI).

    `confined`: files of this machine must lie below `root`; a table that came with the pictures may not reach for
    others. Raises ValueError saying why the place cannot be used.
    """
    scheme, mark, _ = written.partition("://")
    in_bucket = scheme == "s3" if mark else root.startswith("s3://")
    written.encode("utf-8", "strict" if in_bucket else "surrogateescape")  # UnicodeEncodeError is a ValueError
    if "\0" in written:
        raise ValueError(f"{written!r} holds a NUL byte")
    if mark and scheme == "s3":
        if not written.removeprefix("s3://").partition("/")[2]:
            raise ValueError(f"{written!r} names no object")
        return _named(written, root), written
    if mark and scheme != "file":
        raise ValueError(
            f"{written!r} has the scheme {scheme}://, which is not read here: use file://, s3:// or a path"
        )
    if mark or written.startswith("/"):
        if root.startswith("s3://"):
            raise ValueError(f"{written!r} is a file of one machine, and the table is in a bucket")
        uri = _local(written)
        name = _named(uri, root)
        if confined and name == uri:
            raise ValueError(f"{written!r} is not below the delivery")
        return name, uri
    name = posixpath.normpath(posixpath.join(folder, written))
    if not name.startswith("../"):
        return name, below(root, name)
    if confined:
        raise ValueError(f"{written!r} is not below the delivery")
    if not root.startswith("s3://"):
        uri = _local(os.path.join(path_of(root), name))
        return uri, uri
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    key = posixpath.normpath(posixpath.join(prefix, name))
    if key.startswith("../"):
        raise ValueError(f"{written!r} is not in the bucket {bucket}")
    return f"s3://{bucket}/{key}", f"s3://{bucket}/{key}"


def _local(written: str) -> str:
    try:
        return file_uri(os.path.normpath(path_of(written)))
    except (BackdropError, ValueError) as error:
        raise ValueError(str(error)) from None


def _named(uri: str, root: str) -> str:
    """`uri` relative to `root` when it lies below it, so that a URI and a path mean the same picture."""
    inside = root.rstrip("/") + "/"
    if not uri.startswith(inside):
        return uri
    if uri.startswith("s3://"):
        return uri[len(inside) :]
    return os.path.relpath(path_of(uri), path_of(root))
