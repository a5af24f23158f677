"""What goes into the catalog and comes out of it: plain frozen records, so that no caller holds a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

TAKEN = "takedown"
"""The filter that drops what was taken down."""
EXACT = "exact duplicate"
"""The filter that drops all but one of the files with the same bytes."""


@dataclass(frozen=True)
class Delivery:
    """A dated batch of images. `state`: 'open' → 'ingested' → 'filtered'."""

    name: str
    uri: str
    kind: str
    added_at: datetime
    state: str


@dataclass(frozen=True, slots=True)
class SightingRow:
    """One picture as it was met in a delivery.

    `etag` changes when the bytes behind `uri` do. `problem` says why this row of a manifest can be no picture.
    `id` and `image_id` (SHA-256 of its bytes) are the catalog's own: 0 and None until it is written and scanned.
    """

    uri: str
    etag: str = ""
    licence: str = ""
    source: str = ""
    captions: list[str] = field(default_factory=list)
    mask_uri: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    split: str = "train"
    problem: str = ""
    id: int = 0
    image_id: str | None = None


@dataclass(frozen=True, slots=True)
class ScannedRow:
    """What the scan of one sighting found out about the image that it shows.

    `image_id` is None where there were no bytes. `phash` and `sketch` are None where it was dropped before; `size` in
    bytes, `format`, `width` and `height` are those of the upright picture without metadata, the last three empty and
    0 where it cannot be decoded. `cleaned`: captions in place of the delivered ones.
    """

    sighting: int
    image_id: str | None
    size: int = 0
    format: str = ""
    width: int = 0
    height: int = 0
    phash: int | None = None
    sketch: bytes | None = None
    cleaned: list[str] | None = None


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One filter's decision about one sighting."""

    sighting: int
    image_id: str | None
    filter: str
    filter_version: str
    decision: str
    score: float | None = None
    reason: str = ""
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """What could not be decoded, why, and where its bytes are kept ("" where there were none)."""

    sighting: int
    uri: str
    image_id: str | None
    reason: str
    detail: str
    bytes: int
    key: str


@dataclass(frozen=True, slots=True)
class MaskRow:
    """A mask that was cut for an image: a PNG in the store, or none (key "") where the segmenter was not sure."""

    image_id: str
    source: str
    confidence: float
    key: str


@dataclass(frozen=True, slots=True)
class EmbeddingRow:
    """What an embedder made of an image: a vector of length 1."""

    image_id: str
    embedder: str
    vector: list[float]


@dataclass(frozen=True, slots=True)
class CopyRow:
    """A copy and what it repeats; `better` where it would have won against an earlier delivery's.

    A near duplicate has `distance` and `residual`, a semantic one `similarity`.
    """

    image_id: str
    of: str
    distance: int | None
    residual: float | None
    better: bool
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """An image that the scan let through."""

    sighting: int
    image_id: str
    split: str
    width: int
    height: int
    phash: int


@dataclass(frozen=True, slots=True)
class PackRow:
    """One image of the keep list with all that packing needs. `captions`: the delivered ones, then a written one.

    `width` and `height` are those of the upright picture; `untouched`: safe decoding found nothing to change or cut.
    """

    sighting: int
    image_id: str
    uri: str
    captions: list[str]
    attributes: dict[str, Any]
    source: str
    licence: str
    mask_uri: str | None
    mask_key: str
    mask_confidence: float | None
    bucket: str
    split: str
    width: int
    height: int
    untouched: bool


@dataclass(frozen=True)
class Model:
    """A trained model or an engine: its bundle id, what made it, and the dataset version that it saw."""

    id: str
    asset: str
    data_version: str
    dataset_version: str
    mlflow_run: str | None
    created_at: datetime


@dataclass(frozen=True)
class Alert:
    """A row of `alerts`; `id` is 0 until it is written. `cause` is the same each time the same thing is noticed."""

    cause: str
    kind: str
    title: str
    detail: str
    since: datetime
    links: Mapping[str, str] = field(default_factory=dict)
    noticed_at: datetime | None = None
    ended_at: datetime | None = None
    waiting: tuple[str, ...] = ()
    id: int = 0


@dataclass(frozen=True)
class AlertMessage:
    """A row of `alert_messages`: `notice` is what is sent."""

    id: int
    destination: str
    kind: str
    alerts: tuple[int, ...]
    notice: Mapping[str, Any]
    written_at: datetime
    attempts: int
    next_at: datetime
    sent_at: datetime | None
    problem: str
