"""The catalog database: what came from where, what was decided about it, and what was made of it."""

from infra.catalog.catalog import Catalog
from infra.catalog.rows import Delivery, Model, SightingRow, VerdictRow

__all__ = ["Catalog", "Delivery", "Model", "SightingRow", "VerdictRow"]
