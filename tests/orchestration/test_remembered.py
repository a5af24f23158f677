"""What the last run ran with is what the page and a takedown go on with, unless something else is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import Settings
from orchestration.remembered import as_last_run, remember


@pytest.fixture(autouse=True)
def _nothing_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKDROP_PRESET", "BACKDROP_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_the_last_run_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "mine.yaml"
    assert as_last_run(Settings(state=tmp_path)) == {}
    remember(Settings(state=tmp_path, preset="tiny", config=config))
    remembered = as_last_run(Settings(state=tmp_path))
    assert remembered == {"BACKDROP_PRESET": "tiny", "BACKDROP_CONFIG": str(config)}
    assert Settings.load(remembered).preset == "tiny"
    remember(Settings(state=tmp_path))
    assert as_last_run(Settings(state=tmp_path)) == {"BACKDROP_PRESET": "nano"}
    monkeypatch.setenv("BACKDROP_PRESET", "tiny")
    assert as_last_run(Settings(state=tmp_path)) == {}
