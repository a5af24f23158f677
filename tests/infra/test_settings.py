from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import BackdropError
from infra.settings import REPOSITORY, Settings


def test_the_defaults_need_no_environment() -> None:
    settings = Settings.load({})
    assert settings.state == REPOSITORY / ".backdrop"
    assert settings.store_uri == (REPOSITORY / ".backdrop" / "store").as_uri()
    assert settings.preset == "nano"
    assert settings.catalog_url is None


def test_the_store_follows_the_state_folder() -> None:
    assert Settings.load({"BACKDROP_STATE": "/data/my state"}).store_uri == "file:///data/my%20state/store"
    given = {"BACKDROP_STATE": "/data/state", "BACKDROP_STORE": "s3://bucket/prefix"}
    assert Settings.load(given).store_uri == "s3://bucket/prefix"


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"BACKDROP_STATE": "here", "BACKDROP_IMAGES": "pictures", "BACKDROP_CONFIG": "c.yaml"})
    assert settings.state == tmp_path / "here"
    assert settings.images == (tmp_path / "pictures").as_uri()
    assert settings.config == tmp_path / "c.yaml"


@pytest.mark.parametrize(
    ("given", "links"),
    [
        ({}, ""),
        ({"BACKDROP_MLFLOW_URI": "http://backdrop-mlflow:5000/"}, "http://backdrop-mlflow:5000"),
        ({"BACKDROP_MLFLOW_URI": "http://backdrop-mlflow:5000", "BACKDROP_MLFLOW_PAGE": "https://m/"}, "https://m"),
    ],
)
def test_links_go_to_the_page_that_people_reach(given: dict[str, str], links: str) -> None:
    assert Settings.load(given).mlflow_links == links


def test_it_reads_the_real_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKDROP_PRESET", "tiny")
    monkeypatch.setenv("BACKDROP_SAMPLE_CATALOGUE", "false")
    monkeypatch.setenv("BACKDROP_IMAGES", "")  # `make run` passes IMAGES= on, also when it is empty
    settings = Settings.load()
    assert settings.preset == "tiny"
    assert settings.sample_catalogue is False
    assert settings.images is None


def test_an_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(BackdropError, match=r"BACKDROP_PRESETT is not a setting. Did you mean 'BACKDROP_PRESET'"):
        Settings.load({"BACKDROP_PRESETT": "nano"})


def test_variables_between_launcher_and_job_are_known() -> None:
    Settings.load({"BACKDROP_JOB_LAUNCH": "1", "OTHER": "x"})


def test_a_bad_value_names_its_variable() -> None:
    with pytest.raises(BackdropError, match="BACKDROP_ADOPT='some'"):
        Settings.load({"BACKDROP_ADOPT": "some"})
