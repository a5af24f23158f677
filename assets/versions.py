"""The data version of an asset: a hash of everything that decides its bytes.

Dagster neither folds configuration into a version nor skips work for an unchanged one, so the line does both:
an asset whose data version already has a committed result returns that result and launches nothing.
The git commit is deliberately not part of it: a changed README must not retrain a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.files import canonical_json, sha256_bytes
from infra.sources import source_hash


def data_version(recipe: str, *, upstream: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """SHA-256 over the recipe's sources (module name `recipe`), its inputs' data versions and its configuration."""
    return version_from(source_hash(recipe), upstream, config)


def version_from(sources: str, upstream: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """The same from the hash of the sources: reading them takes a moment, and thousands of deliveries share them."""
    return sha256_bytes(canonical_json({"sources": sources, "upstream": dict(upstream), "config": dict(config)}))


def short(version: str) -> str:
    """The form used in folder and run names: 12 hexadecimal digits."""
    return version[:12]
