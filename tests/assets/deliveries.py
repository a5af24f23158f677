"""Deliveries that the reader tests write: files, tars, table lines; and what comes out of them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from assets.curation.readers import Item, read_delivery
from infra.errors import BackdropError

JPEG = b"\xff\xd8\xff\xe0 a photograph, as far as a reader looks \xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n and so on"


def deliver(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Writes `files` below `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def tar_of(*members: tuple[str, bytes | str], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with these members, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for name, data in members:
            encoded = data if isinstance(data, bytes) else data.encode()
            info = tarfile.TarInfo(name)
            info.size = len(encoded)
            tar.addfile(info, io.BytesIO(encoded))
    return out.getvalue()


def lines(*rows: object) -> str:
    """A line of JSON per row."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(uri: str | Path) -> list[Item]:
    """The whole delivery."""
    return list(read_delivery(str(uri)))


def refusal(uri: str | Path) -> str:
    """The one error that the delivery ends in."""
    with pytest.raises(BackdropError) as caught:
        read(uri)
    assert caught.value.remedy
    return caught.value.what
