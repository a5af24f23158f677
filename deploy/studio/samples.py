"""Photographs to try: rendered ones of the sample catalogue, held out of the training of the engine that serves."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deploy.samples import is_catalogue
from infra.images import probe
from infra.object_store import ObjectStore
from infra.shards import load_version, read_slices

log = logging.getLogger(__name__)

COUNT = 8
RETRY_SECONDS = 30
"""After they could not be read: the store may come back."""


@dataclass(frozen=True)
class Sample:
    """One photograph as its file, its true mask as a PNG, and the words that it was rendered from."""

    id: str
    format: str
    image: bytes
    mask: bytes
    caption: str
    width: int
    height: int


class Samples:
    """Read once per dataset version. Only rendered pictures: nobody can ask for those to be taken down."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._version = ""
        self._again = 0.0
        self._found: Mapping[str, Sample] = {}
        self._lock = threading.Lock()

    def of(self, version: str) -> Mapping[str, Sample]:
        """Id → sample; empty where the dataset version has none, or cannot be read."""
        with self._lock:
            if version != self._version and time.monotonic() >= self._again:
                try:
                    self._found, self._version = _read(self._store, version), version
                except Exception as error:  # withdrawn, gone, or the store is away: the page then has an upload only
                    log.warning("there are no sample photographs: %s", error)
                    self._found, self._version, self._again = {}, "", time.monotonic() + RETRY_SECONDS
            return self._found


def _read(store: ObjectStore, version: str) -> dict[str, Sample]:
    with tempfile.TemporaryDirectory(prefix="backdrop-samples-") as cache:
        rows = read_slices(store, load_version(store, version).of("holdout"), Path(cache))
        chosen = islice((row for row in rows if row["mask"] and is_catalogue(row["attributes"])), COUNT)
        return {row["id"]: _sample(row) for row in chosen}


def _sample(row: Mapping[str, Any]) -> Sample:
    kind, width, height = probe(row["image"])
    caption = (row["captions"] or ["a product"])[0]
    return Sample(row["id"], kind, row["image"], row["mask"], caption, width, height)
