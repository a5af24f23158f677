"""Whose engines the studio loads: the keys that the settings trust, and the catalog's rows of now."""

from __future__ import annotations

from deploy.manifest import PLAN_ASSET, CatalogRow, Trust
from deploy.signing import open_signer, trusted_keys
from infra.catalog import Catalog
from infra.settings import Settings


def trust_of(settings: Settings) -> Trust:
    """Read anew for each engine: a row that is gone, or a key that is trusted no longer, counts at once."""
    catalog = Catalog(str(settings.catalog_url))
    try:
        rows = {
            model.id: CatalogRow(
                asset=model.asset, data_version=model.data_version, dataset_version=model.dataset_version
            )
            for model in catalog.models()
            if model.asset in ("tensorrt_engine", PLAN_ASSET)
        }
    finally:
        catalog.close()
    signer = open_signer(settings.signing_key, settings.state)
    return Trust(keys=trusted_keys(settings.trusted_keys, signer), rows=rows)
