"""Fixtures of the training room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.training.world import World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """A process that trains tiny models in forks of itself."""
    world = World()
    yield world
    world.close()
