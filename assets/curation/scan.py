"""What one worker does with one picture: read, decode, judge, fingerprint, and cut a mask where none came along.

A worker holds one picture at a time. Whatever the bytes are, the answer is a `Scan`; only a dead process is none.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

import numpy as np

from assets.curation.duplicates import phash, thumbnail
from assets.curation.filters.base import DROP, KEEP, UNSURE, Judgement
from assets.curation.filters.size import SizeFilter
from assets.curation.filters.text_overlay import TextOverlayFilter
from assets.curation.specs import CurationSection
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.images import BadImage, decode, decode_mask, encode_jpeg, encode_png, probe, shrink
from infra.object_store import ObjectMissing, read_uri
from infra.processes import end_with_parent

DECODE, MASK = "decode", "mask"
_VERSION = "1"
_MEMORY = 6 << 30  # bytes of address space per worker: a bomb that slips through ends here, not in the kernel


@dataclass(frozen=True)
class Task:
    """One picture to scan: its place in the delivery, its id and where its bytes and its mask are."""

    index: int
    image_id: str
    uri: str
    mask_uri: str | None


@dataclass(frozen=True)
class Scan:
    """What was found out about one picture."""

    index: int
    judgements: tuple[Judgement, ...]
    width: int = 0
    height: int = 0
    phash: int = 0
    thumb: np.ndarray | None = None  # uint8 (THUMB, THUMB, 3)
    mask: bytes = b""  # PNG of a mask found here, at the packed picture's size
    confidence: float | None = None  # of a mask found here

    @property
    def dropped(self) -> Judgement | None:
        """The first filter that drops the picture."""
        return next((judgement for judgement in self.judgements if judgement.decision == DROP), None)


def prepare_worker() -> None:
    """Once per process: one thread (the pool uses every core), a limit on memory, and no life after the parent."""
    import cv2

    cv2.setNumThreads(1)
    end_with_parent()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def scan_all(tasks: list[Task], config: CurationSection, min_size: int) -> list[Scan]:
    """`scan` for each task, in order."""
    return [scan(task, config, min_size) for task in tasks]


def scan(task: Task, config: CurationSection, min_size: int) -> Scan:
    """Judge one picture. Filters run cheapest first and stop at the first drop."""
    image = _read(task, config)
    if isinstance(image, Judgement):
        return Scan(task.index, (image,))
    height, width = image.shape[:2]
    judgements = [Judgement(DECODE, _VERSION, KEEP, width * height)]
    filters = (SizeFilter(min_size, config.max_aspect), TextOverlayFilter(config.text_glyphs))
    for check in filters:
        judgements.append(check.judge(image))
        if judgements[-1].decision == DROP:
            return Scan(task.index, tuple(judgements), width, height, thumb=thumbnail(image))
    mask, confidence = b"", None
    if task.mask_uri is None:
        mask, confidence = _found_mask(image, config)
        judgements.append(_mask_judgement(confidence, config.mask_confidence))
    return Scan(task.index, tuple(judgements), width, height, phash(image), thumbnail(image), mask, confidence)


def _read(task: Task, config: CurationSection) -> np.ndarray | Judgement:
    try:
        data = read_uri(task.uri)
    except ObjectMissing:
        return Judgement(DECODE, _VERSION, DROP, 0, "vanished: the file is no longer there")
    except BackdropError as error:
        return Judgement(DECODE, _VERSION, DROP, 0, f"unreadable: {error.what}")
    if sha256_bytes(data) != task.image_id:
        return Judgement(DECODE, _VERSION, DROP, 0, "changed: the file is no longer the one that was ingested")
    try:
        return decode(data, int(config.max_megapixels * 1e6))
    except BadImage as error:
        return Judgement(DECODE, _VERSION, DROP, 0, error.what)
    except MemoryError:
        return Judgement(DECODE, _VERSION, DROP, 0, "too many pixels: the worker ran out of memory")


def _found_mask(image: np.ndarray, config: CurationSection) -> tuple[bytes, float]:
    from evaluation.segmentation import segment

    packed = shrink(image, config.max_side)
    mask, confidence = segment(packed)
    sure = confidence >= config.mask_confidence
    return (encode_png(mask.astype(np.uint8) * 255) if sure else b""), round(confidence, 4)


def _mask_judgement(confidence: float, needed: float) -> Judgement:
    from evaluation.segmentation import VERSION

    if confidence >= needed:
        return Judgement(MASK, VERSION, KEEP, confidence)
    reason = f"unsure mask: confidence {confidence:.2f}, {needed:.2f} are needed; packed without a mask"
    return Judgement(MASK, VERSION, UNSURE, confidence, reason)


def look(uri: str, image_id: str) -> np.ndarray | None:
    """The thumbnail of a picture kept earlier; None where it is gone or changed."""
    try:
        data = read_uri(uri)
        return thumbnail(decode(data)) if sha256_bytes(data) == image_id else None
    except BackdropError:
        return None


@dataclass(frozen=True)
class Packed:
    """A picture as it goes into a shard: image bytes, mask PNG (b"" = none), upright width and height."""

    image: bytes
    mask: bytes
    width: int
    height: int
    note: str = ""  # why a delivered mask was left out


def pack_all(tasks: list[tuple[str, str | None, bytes, int, int]], max_side: int) -> list[Packed]:
    """`pack` for each (uri, mask uri, found mask, upright width, upright height), in order."""
    return [pack(*task, max_side) for task in tasks]


def pack(uri: str, mask_uri: str | None, mask: bytes, width: int, height: int, max_side: int) -> Packed:
    """The original bytes, or a smaller copy (JPEG, quality 95) where a side is longer than `max_side`."""
    data = read_uri(uri)
    if max(width, height) > max_side:
        image = shrink(decode(data), max_side)
        data, (height, width) = encode_jpeg(image, 95), image.shape[:2]
    if mask_uri is None:
        return Packed(data, mask, width, height)
    try:
        given = read_uri(mask_uri)
        return Packed(data, _delivered_mask(given, width, height), width, height)
    except BackdropError as error:
        return Packed(data, b"", width, height, f"mask not usable: {error.what}")


def _delivered_mask(data: bytes, width: int, height: int) -> bytes:
    """A delivered mask at the packed picture's size; passed on bit for bit where it already is a grey PNG of it."""
    import cv2

    grey_png = data[24:26] == b"\x08\x00"  # IHDR: 8 bits, grey
    same = probe(data) == ("png", width, height)
    mask = decode_mask(data)
    if same and grey_png:
        return data
    if abs(mask.shape[1] * height - mask.shape[0] * width) > 0.02 * width * height:
        raise BackdropError(f"the mask is {mask.shape[1]} × {mask.shape[0]}, the picture {width} × {height}")
    full = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return encode_png(full * 255)
