"""`backdrop studio` on an empty machine: it starts, says where it listens and what to do, and ends on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from infra.processes import free_port
from infra.settings import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("BACKDROP_", "DAGSTER_"))}
    environment = {**mine, "BACKDROP_STATE": str(tmp_path / "state"), "COLUMNS": "200"}
    command, port = [sys.executable, "-m", "orchestration.cli"], free_port()
    process = subprocess.Popen(
        [*command, "studio", "--port", str(port)],
        cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            deadline = time.monotonic() + 300
            while True:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                try:
                    assert client.get("/healthz").status_code == 200
                    break
                except httpx.TransportError:
                    time.sleep(0.5)
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert "make run" in ready.json()["remedy"]
            assert "Backdrop" in client.get("/").text
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert f"http://127.0.0.1:{port}" in said
        assert "no login" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        subprocess.run([*command, "clean"], cwd=REPOSITORY, env=environment, check=True, capture_output=True)
