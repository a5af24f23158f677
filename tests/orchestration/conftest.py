"""The filled catalog and store of the takedown's tests."""

from tests.assets.workshop import workshop

__all__ = ["workshop"]
