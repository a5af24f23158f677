"""A run worker that a test may kill: `python -m tests.cluster.orchestrate <spec's class> <json>`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from infra.jobs.kubernetes.settings import ClusterSettings
from tests.cluster.world import Hurried, World


def main(kind: str, text: str) -> None:
    told = json.loads(text)
    folder = Path(told["folder"])
    settings = ClusterSettings.load(folder / "cluster.yaml").model_dump(mode="json")
    world = World(folder, Path(told["kubeconfig"]), settings, Hurried(told["pace"]))
    spec = getattr(importlib.import_module("fixture_room.specs"), kind).model_validate(told["spec"])
    world.launch(spec, told["verb"], slices=told["slices"])


if __name__ == "__main__":
    main(*sys.argv[1:])
