"""What goes into the catalog and comes out of it: plain frozen records, so that no caller holds a session."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Split = Literal["train", "holdout"]
Decision = Literal["keep", "drop", "fix", "unsure"]


@dataclass(frozen=True)
class Delivery:
    """A dated batch of images. `state`: 'open' → 'ingested' → 'filtered'."""

    name: str
    uri: str
    kind: str
    added_at: datetime
    state: str


@dataclass(frozen=True)
class SightingRow:
    """One picture as it was met in a delivery, and the image (by content) that it showed.

    `image_id` is the SHA-256 of its bytes, None when they could not be read; `bytes`, `format`, `width` and `height`
    describe that image ('unreadable' and 0 where no header could be understood).
    """

    uri: str
    image_id: str | None
    bytes: int = 0
    format: str = ""
    width: int = 0
    height: int = 0
    licence: str = ""
    source: str = ""
    captions: list[str] = field(default_factory=list)
    mask_uri: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    split: str = "train"


@dataclass(frozen=True)
class VerdictRow:
    """One filter's decision about one image of a delivery."""

    image_id: str
    filter: str
    filter_version: str
    decision: str
    score: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Model:
    """A trained model or an engine: its bundle id, what made it, and the dataset version that it saw."""

    id: str
    asset: str
    data_version: str
    dataset_version: str
    mlflow_run: str | None
    created_at: datetime
