"""Deliveries: the dynamic partitions of the data assets. A delivery is a name and a URI in the catalog."""

from __future__ import annotations

import re

import dagster as dg

from infra.files import sha256_bytes
from training.presets import Preset

deliveries = dg.DynamicPartitionsDefinition(name="deliveries")

ONE_BY_ONE = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
"""A backfill makes one run of each delivery: one that fails or is cancelled leaves the others alone."""


def sample_delivery(preset: Preset) -> tuple[str, str]:
    """The (name, URI) of the preset's sample catalogue; the URI is its whole recipe."""
    options = "&".join(f"{key}={value}" for key, value in sorted(preset.catalogue.items()))
    return f"sample-{preset.name}", f"sample://{preset.name}?{options}"


def delivery_name(uri: str) -> str:
    """A readable, deterministic partition key for a folder or prefix: its last part and a short hash of the whole."""
    slug = re.sub(r"[^a-z0-9]+", "-", uri.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-") or "images"
    return f"{slug[:40]}-{sha256_bytes(uri.encode())[:8]}"


def in_the_mix(name: str, kind: str, preset: Preset) -> bool:
    """Users' deliveries always; of the rendered ones only this preset's."""
    return kind != "sample" or name == sample_delivery(preset)[0]
