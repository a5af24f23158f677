"""The cluster's dagster.yaml: the top-level one with `infra/kubernetes/dagster.production.yaml` laid over it.

kustomize reads no file above its root, so the result lies in `base/`, written by `python -m infra.instance`
(`make manifests`); a test holds that it is current.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from infra.settings import REPOSITORY

TOP, PATCH, RESULT = (
    REPOSITORY / "dagster.yaml",
    REPOSITORY / "infra/kubernetes/dagster.production.yaml",
    REPOSITORY / "infra/kubernetes/base/dagster.yaml",
)
_HEAD = "# Written by `make manifests` from dagster.yaml and infra/kubernetes/dagster.production.yaml: change those.\n"


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings key by key, anything else as a whole."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def production() -> str:
    """The text of the cluster's dagster.yaml."""
    merged = merge(*(yaml.safe_load(path.read_text()) for path in (TOP, PATCH)))
    return _HEAD + yaml.safe_dump(merged, sort_keys=False, width=120)


def write(path: Path = RESULT) -> None:
    path.write_text(production())


if __name__ == "__main__":
    write()
