"""The studio as a cluster starts it: without a key, opening what those have signed whom it is told to trust."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deploy.signing import open_signer
from tests.deploy.studio.conftest import Playing
from tests.deploy.studio.stage import served

pytestmark = pytest.mark.integration


def test_the_public_key_is_enough(playing: Playing, tmp_path: Path) -> None:
    public = open_signer(None, playing.stage.settings.state).public
    given = {"BACKDROP_STATE": str(tmp_path), "BACKDROP_SIGNING_KEY": "", "BACKDROP_TRUSTED_KEYS": public}
    with served(playing.stage, tmp_path / "log.txt", given) as studio:
        studio.wait_ready()


def test_without_it_no_engine_is_opened(playing: Playing, tmp_path: Path) -> None:
    given = {"BACKDROP_STATE": str(tmp_path), "BACKDROP_SIGNING_KEY": ""}
    with served(playing.stage, tmp_path / "log.txt", given) as studio, studio.client() as client:
        deadline = time.monotonic() + 120
        while "cannot be opened" not in (ready := client.get("/readyz")).json()["status"]:
            assert time.monotonic() < deadline, ready.text
            time.sleep(0.2)
        assert ready.status_code == 503
        assert "BACKDROP_TRUSTED_KEYS" in studio.log.read_text()
