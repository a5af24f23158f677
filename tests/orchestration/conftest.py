"""The filled catalog and store of the takedown's tests, and an empty state folder with the commands on it."""

from pathlib import Path

import pytest

from tests.assets.workshop import workshop
from tests.orchestration.shop import Shop

__all__ = ["workshop"]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "state")
