"""Plans that a machine has kept for itself: one that must not be loaded costs a build, nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from deploy.engines.open import _own_plans
from deploy.engines.own import own_folder
from deploy.engines.plans import plan_key, pointer_key

INPUTS = {"engine": "e", "gpu": "g"}


def test_a_folder_that_is_open_to_others_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _own_plans(INPUTS, ["trunk"]) is None  # there is none yet
    own_folder().mkdir(parents=True)
    own_folder().chmod(0o777)
    with caplog.at_level(logging.ERROR):
        assert _own_plans(INPUTS, ["trunk"]) is None
    assert "is open to others than its user" in caplog.text


def test_a_damaged_entry_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pointer = own_folder() / pointer_key(plan_key(INPUTS))
    pointer.parent.mkdir(parents=True)
    own_folder().chmod(0o700)
    pointer.write_text('{"bundle": ')
    with caplog.at_level(logging.ERROR):
        assert _own_plans(INPUTS, ["trunk"]) is None
    assert "are not used" in caplog.text
