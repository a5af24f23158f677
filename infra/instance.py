"""The cluster's dagster.yaml: the top-level one with `infra/kubernetes/dagster.production.yaml` laid over it.

kustomize reads no file above its root, so the result lies in `base/`, written by `python -m infra.instance`
(`make manifests`); a test holds that it is current.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from infra.layers import merge
from infra.settings import REPOSITORY

TOP, PATCH, RESULT = (
    REPOSITORY / "dagster.yaml",
    REPOSITORY / "infra/kubernetes/dagster.production.yaml",
    REPOSITORY / "infra/kubernetes/base/dagster.yaml",
)
_HEAD = "# Written by `make manifests` from dagster.yaml and infra/kubernetes/dagster.production.yaml: change those.\n"


def production() -> str:
    """The text of the cluster's dagster.yaml."""
    merged = merge(*(yaml.safe_load(path.read_text()) for path in (TOP, PATCH)))
    return _HEAD + yaml.safe_dump(merged, sort_keys=False, width=120)


def write(path: Path = RESULT) -> None:
    path.write_text(production())


if __name__ == "__main__":
    write()
