"""The catalog database: what came from where, what was decided about it, and what was made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.catalog.rows import Delivery, Model, SightingRow, VerdictRow

if TYPE_CHECKING:
    from infra.catalog.catalog import Catalog

__all__ = ["Catalog", "Delivery", "Model", "SightingRow", "VerdictRow"]


def __getattr__(name: str) -> Any:
    # Many a worker handles rows and never the database, whose libraries take a second to import.
    if name == "Catalog":
        from infra.catalog.catalog import Catalog

        return Catalog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
