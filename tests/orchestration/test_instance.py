"""One `dagster.yaml` for laptop and cluster: as it is, and with the production patch laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config

from infra.settings import REPOSITORY


def load(*paths: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in paths:
        merged |= yaml.safe_load((REPOSITORY / path).read_text())
    return merged


@pytest.mark.parametrize(
    "files", [["dagster.yaml"], ["dagster.yaml", "infra/kubernetes/dagster.production.yaml"]], ids=["laptop", "cluster"]
)
def test_dagster_accepts_the_configuration(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(load(*files)))
    accepted, _ = dagster_instance_config(str(tmp_path))
    assert accepted["storage"]["postgres"]["postgres_url"] == {"env": "BACKDROP_DAGSTER_URL"}
    assert ("run_launcher" in accepted) == (len(files) == 2)


def test_production_launcher_takes_its_configuration() -> None:
    from dagster_k8s import K8sRunLauncher

    launcher = load("dagster.yaml", "infra/kubernetes/dagster.production.yaml")["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", K8sRunLauncher.__name__)
    checked = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), launcher["config"])
    assert checked.success, checked.errors


def test_no_value_is_fixed_in_the_file() -> None:
    assert load("dagster.yaml")["storage"]["postgres"]["postgres_url"] == {"env": "BACKDROP_DAGSTER_URL"}
    assert load("dagster.yaml")["telemetry"] == {"enabled": False}
