"""Deliveries: the dynamic partitions of the data assets. A delivery is a name and a URI in the catalog."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import dagster as dg

from infra.files import sha256_bytes
from training.presets import Preset

deliveries = dg.DynamicPartitionsDefinition(name="deliveries")


def delivery_asset(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with a partition per delivery. A backfill makes one run of each: one that fails or is cancelled leaves
    the others alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # of `backfill_policy`; every command would print it
        each = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
        return dg.asset(partitions_def=deliveries, backfill_policy=each, **options)


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
