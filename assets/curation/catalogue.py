"""The catalog as a curation job finds it: named by the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.errors import BackdropError

if TYPE_CHECKING:
    from infra.catalog import Catalog


def open_catalog() -> Catalog:
    """The catalog named by the environment. Raises BackdropError when none is."""
    from infra.catalog import Catalog
    from infra.settings import Settings

    url = Settings.load().catalog_url
    if not url:
        raise BackdropError(
            "no catalog database is configured (BACKDROP_CATALOG_URL is empty)",
            "start the job through `make run`, or give the URL of a PostgreSQL database",
        )
    return Catalog(url)
