"""What packing's workers need and take seconds to import: imported once, by the fork server that they come from."""

from assets.curation import packing
from infra._compat.streaming import load

load()

__all__ = ["packing"]
