"""Fixtures of this room, each written beside what it opens."""

from tests.assets.captioning import server
from tests.assets.workshop import workshop

__all__ = ["server", "workshop"]
