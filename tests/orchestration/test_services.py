"""Around a command on a cluster nothing is linked, started or stopped: what it needs is given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from infra.errors import BackdropError
from infra.settings import Settings
from orchestration.services import services

GIVEN = {
    "BACKDROP_LAUNCHER": "kubernetes",
    "BACKDROP_CATALOG_URL": "postgresql://catalog.example/catalog",
    "BACKDROP_DAGSTER_URL": "postgresql+psycopg2://dagster.example/dagster",
    "BACKDROP_MLFLOW_URI": "http://backdrop-mlflow:5000",
    "DAGSTER_HOME": "/state",
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod's: `dagster.yaml` cannot be removed, as the mount there cannot."""
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "dagster.yaml").mkdir()
    return tmp_path


def test_a_pod_goes_on_with_what_it_has(state: Path) -> None:
    with services(Settings.load(GIVEN | {"BACKDROP_STATE": str(state)}), Console()) as environment:
        assert environment == {}
    assert [path.name for path in state.rglob("*")] == ["dagster.yaml"]


@pytest.mark.parametrize("missing", [[name] for name in list(GIVEN)[1:]] + [list(GIVEN)[1:]], ids=str)
def test_what_is_missing_is_named(missing: list[str], state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    given = {name: value for name, value in GIVEN.items() if name not in (*missing, "DAGSTER_HOME")}
    with (
        pytest.raises(BackdropError, match=re.escape(", ".join(missing))) as raised,
        services(Settings.load(given | {"BACKDROP_STATE": str(state)}), Console()),
    ):
        pass
    assert "backdrop-code-location" in raised.value.remedy
