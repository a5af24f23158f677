"""One picture of a delivery, and which names and first bytes make a picture."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MASK_SUFFIX = ".mask.png"
SIDE_SUFFIXES = (".txt", ".json", ".cls")
TAR_SUFFIX = ".tar"
PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # no member can be read by its offset

#: Files that are surely no picture: their bytes are not looked at. Any other unknown suffix costs one small read.
_OTHER_SUFFIXES = frozenset(
    """.txt .json .jsonl .cls .caption .md .rst .csv .tsv .parquet .arrow .feather .xml .html .htm .css .js .svg .pdf
    .tar .tgz .gz .zst .bz2 .xz .zip .7z .rar .py .ipynb .sh .yaml .yml .toml .ini .cfg .log .lock .npy .npz .pt .pth
    .ckpt .safetensors .onnx .mds .index .idx .db .sqlite .mp4 .mov .avi .mkv .webm .mp3 .wav .flac .ogg .doc .docx
    .odt .rtf .xls .xlsx .ods .ppt .pptx .odp .sha256 .sha1 .md5 .bak .tmp .part""".split()
)

HEAD = 16  # bytes that `looks_like_picture` wants
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\xff\x0a",  # JPEG XL
    b"\0\0\0\x0cJXL ",
    b"\0\0\0\x0cjP  ",  # JPEG 2000
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


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
    etag: str = ""  # changes when the bytes behind `uri` change; "" where no listing told
    bytes: int | None = None  # as listed
    problem: str = ""  # why there is no picture here (a row without a URI, a tar cut short); "" = none known


def may_be_picture(name: str) -> bool | None:
    """By the name alone: True, False, or None when the first bytes must tell. Masks and hidden files are none."""
    if name.endswith(MASK_SUFFIX) or name.startswith(".") or "/." in name:
        return False
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    return False if suffix in _OTHER_SUFFIXES else None


def looks_like_picture(head: bytes) -> bool:
    """By the first HEAD bytes. Formats that cannot be decoded here count too: they get a verdict, not silence."""
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if head[:2] == b"BM":  # two letters may begin any file: the reserved fields of a bitmap's header are zero
        return head[6:10] == b"\0\0\0\0"
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS
