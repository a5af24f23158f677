"""The services as the manifests start them: their own commands, and the probes that ask them."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.database_url import LEGACY_DRIVER, with_driver
from infra.instance import RESULT
from infra.processes import free_port
from infra.services import NO_TELEMETRY
from infra.settings import REPOSITORY

pytestmark = pytest.mark.integration

BASE = REPOSITORY / "infra" / "kubernetes" / "base"
BINARIES = REPOSITORY / ".venv" / "bin"


def container(service: str) -> dict[str, Any]:
    deployment = next(iter(yaml.safe_load_all((BASE / f"{service}.yaml").read_text())))
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])


@contextmanager
def running(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """The command as in its pod: nothing of this process' environment but where programs are."""
    bare = {"PATH": f"{BINARIES}:{os.environ['PATH']}", "HOME": str(folder), **NO_TELEMETRY, **environment}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=bare, stdout=log, stderr=log)
        try:
            yield
        except Exception as error:
            raise AssertionError((folder / "log.txt").read_text()[-3000:]) from error
        finally:
            process.terminate()
            process.wait(30)


def until(ask: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def get(url: str, **headers: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_studio_is_alive_as_the_probes_ask_and_ready_with_a_champion_alone(tmp_path: Path) -> None:
    found, port = container("studio"), free_port()
    # In its pod that name stands for every address (hostAliases).
    swapped = {"backdrop-studio": "0.0.0.0", "3001": str(port)}
    settings = [line for line in (BASE / "settings.env").read_text().splitlines() if not line.startswith("#")]
    environment = {
        **dict(line.split("=", 1) for line in settings),
        **{one["name"]: one["value"] for one in found["env"]},
        "BACKDROP_STATE": str(tmp_path),
        "BACKDROP_STORE": tmp_path.as_uri(),
        "BACKDROP_MLFLOW_URI": f"http://127.0.0.1:{free_port()}",  # nobody answers there
        "HOME": str(tmp_path),
    }
    command = [*found["command"], *(swapped.get(argument, argument) for argument in found["args"])]
    at = f"http://127.0.0.1:{port}"
    paths = {name: found[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    with running(command, environment, tmp_path):
        until(lambda: get(f"{at}{paths['startup']}", Host="10.1.2.3:3001"))
        assert get(f"{at}{paths['liveness']}", Host="10.1.2.3:3001") == 200  # as the kubelet asks
        assert get(f"{at}{paths['readiness']}", Host="10.1.2.3:3001") == 503
        assert get(f"{at}/metrics", Host="localhost:8080") == 200  # a forwarded port
        assert get(f"{at}/metrics", Host="evil.example:3001") == 403


def test_mlflow_answers_by_the_names_it_has_in_the_cluster(database_url: str, tmp_path: Path) -> None:
    found, port = container("mlflow"), free_port()
    arguments = [argument.replace("$(BACKDROP_STORE)", tmp_path.as_uri()) for argument in found["args"]]
    assert "--port=5000" in arguments
    arguments = [f"--port={port}" if argument == "--port=5000" else argument for argument in arguments]
    environment = {one["name"]: one.get("value", "") for one in found["env"]}
    environment["MLFLOW_BACKEND_STORE_URI"] = with_driver(database_url, LEGACY_DRIVER)
    here = f"http://127.0.0.1:{port}"
    with running([*found["command"], *arguments], environment, tmp_path):
        probe = found["readinessProbe"]["httpGet"]["path"]
        until(lambda: get(f"{here}{probe}", Host="10.1.2.3:5000"))
        assert get(f"{here}{probe}", Host="10.1.2.3:5000") == 200  # as the kubelet asks
        page = f"{here}/api/2.0/mlflow/experiments/get?experiment_id=0"
        for host in ("backdrop-mlflow", "backdrop-mlflow.backdrop", "backdrop-mlflow.backdrop.svc.cluster.local"):
            assert get(page, Host=f"{host}:5000") == 200, host
        assert get(page, Host="localhost:8080") == 200  # a forwarded port
        assert get(page, Host="evil.example:5000") == 403


def test_code_location_and_web_server_are_ready_as_the_probes_ask(database_url: str, tmp_path: Path) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    (tmp_path / "dagster.yaml").write_bytes(RESULT.read_bytes())
    environment = {
        "DAGSTER_HOME": str(tmp_path),
        "BACKDROP_DAGSTER_URL": with_driver(database_url, LEGACY_DRIVER),
        "BACKDROP_STATE": str(tmp_path),
        "PYTHONPATH": str(REPOSITORY),
    }
    ports = {"4000": str(free_port()), "3000": str(free_port())}
    location = container("code-location")
    command = [*location["command"], *(ports.get(argument, argument) for argument in location["args"])]
    (tmp_path / "location").mkdir()
    with running(command, environment, tmp_path / "location"):
        probe = location["readinessProbe"]["grpc"]

        def healthy() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{ports[str(probe['port'])]}") as channel:
                asked = health_pb2.HealthCheckRequest(service=probe["service"])
                answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                raise RuntimeError(answer.status)

        until(healthy)
        server = container("webserver")
        workspace = yaml.safe_load((BASE / "workspace.yaml").read_text())
        place = workspace["load_from"][0]["grpc_server"]
        place |= {"host": "127.0.0.1", "port": int(ports[str(place["port"])])}
        (tmp_path / "workspace.yaml").write_text(yaml.safe_dump(workspace))
        swapped = ports | {"/etc/backdrop/workspace.yaml": str(tmp_path / "workspace.yaml")}
        command = [*server["command"], *(swapped.get(argument, argument) for argument in server["args"])]
        (tmp_path / "server").mkdir()
        with running(command, environment, tmp_path / "server"):
            address = f"http://127.0.0.1:{ports['3000']}{server['readinessProbe']['httpGet']['path']}"
            until(lambda: get(address))
            assert get(address) == 200
