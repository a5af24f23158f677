"""PostgreSQL and MLflow together, as `make run` brings them up."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import BackdropError, ServiceError
from infra.mlflow_server import log_path
from infra.services import Endpoints, ensure_services, environment, stop_services, wait_for_mlflow
from infra.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="backdrop-test-") as folder:
        found = Settings(state=Path(folder) / "state")
        yield found
        stop_services(found)
        from infra.database import remove_state

        remove_state(found)


@pytest.fixture(scope="module")
def endpoints(settings: Settings) -> Endpoints:
    found = ensure_services(settings)
    wait_for_mlflow(found)
    return found


def test_ensuring_again_is_quick_and_changes_nothing(settings: Settings, endpoints: Endpoints) -> None:
    began = time.monotonic()
    assert ensure_services(settings) == endpoints
    assert time.monotonic() - began < 0.2


def test_each_client_gets_the_driver_it_needs(endpoints: Endpoints) -> None:
    assert endpoints.dagster_url.startswith("postgresql+psycopg2://")
    assert endpoints.mlflow_db_url.startswith("postgresql+psycopg2://")
    assert endpoints.catalog_url.startswith("postgresql+psycopg://")


def test_the_environment_says_it_all_to_a_child(endpoints: Endpoints, settings: Settings) -> None:
    variables = environment(endpoints, settings)
    child = Settings.load(variables)
    assert (child.state, child.store_uri) == (settings.state, settings.store_uri)
    assert (child.dagster_url, child.catalog_url) == (endpoints.dagster_url, endpoints.catalog_url)
    assert child.mlflow_uri == endpoints.mlflow_uri
    assert variables["DAGSTER_HOME"] == str(settings.state)
    assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "127.0.0.1" in variables["NO_PROXY"].split(",")
    wait_for_mlflow(child)


def test_mlflow_keeps_runs_artifacts_and_our_own_model_sources(
    endpoints: Endpoints, settings: Settings, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(endpoints.mlflow_uri, endpoints.mlflow_uri)
    run = client.create_run(client.create_experiment("test"))
    client.log_text(run.info.run_id, "hello", "a/b.txt")
    assert list((settings.state / "mlflow-artifacts").rglob("b.txt"))
    assert Path(client.download_artifacts(run.info.run_id, "a/b.txt", str(tmp_path))).read_text() == "hello"

    client.create_registered_model("model")
    # MLflow's server takes a foreign scheme when its path is absolute, and calls an empty path relative.
    source = f"backdrop:///{'a' * 64}"
    version = client.create_model_version("model", source, run_id=run.info.run_id)
    assert version.source == source
    client.set_registered_model_alias("model", "champion", version.version)
    assert client.get_model_version_by_alias("model", "champion").source == source


def test_the_server_is_one_process_without_the_password_on_its_command_line(
    endpoints: Endpoints, settings: Settings
) -> None:
    record = json.loads((settings.state / "mlflow.json").read_text())
    process = psutil.Process(record["process"]["pid"])
    assert process.children() == []
    password = endpoints.mlflow_db_url.split(":")[2].split("@")[0]
    assert password not in " ".join(process.cmdline())
    assert password not in (settings.state / "mlflow.json").read_text()


def test_a_killed_server_comes_back_at_the_same_address(endpoints: Endpoints, settings: Settings) -> None:
    record = json.loads((settings.state / "mlflow.json").read_text())
    process = psutil.Process(record["process"]["pid"])
    process.kill()
    process.wait(10)
    again = ensure_services(settings)
    assert again == endpoints
    wait_for_mlflow(again)


def test_a_server_that_ends_while_it_starts_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    from infra.mlflow_server import ensure_mlflow

    uri = ensure_mlflow(tmp_path, "postgresql+psycopg2://me:hunter2@127.0.0.1:9/mlflow")
    where = Endpoints("", "", "", uri, tmp_path)
    with pytest.raises(ServiceError) as caught:
        wait_for_mlflow(where, timeout=60)
    assert "database 'mlflow' on 127.0.0.1:9" in str(caught.value)
    assert str(log_path(tmp_path)) in str(caught.value)
    assert "hunter2" not in log_path(tmp_path).read_text()


def test_a_given_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    where = Endpoints("", "", "", "http://127.0.0.1:9", tmp_path)
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9 within 0 s"):
        wait_for_mlflow(where, timeout=0)


def test_a_given_database_that_is_away_starts_nothing(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, not listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"postgresql://me:hunter2@127.0.0.1:{port}/things"
        with pytest.raises(ServiceError, match="BACKDROP_CATALOG_URL") as caught:
            ensure_services(Settings(state=tmp_path / "state", catalog_url=url))
    assert f"'things' on 127.0.0.1:{port}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "state").exists()


def test_dagster_and_the_catalog_want_postgresql(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="BACKDROP_DAGSTER_URL does not name a PostgreSQL database"):
        ensure_services(Settings(state=tmp_path, dagster_url="sqlite:///x"))


def test_stopping_twice_and_without_a_state_folder_is_fine(tmp_path: Path) -> None:
    stop_services(Settings(state=tmp_path / "none"))
    assert os.listdir(tmp_path) == []
