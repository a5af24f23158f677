"""What a delivery contains: pictures with captions, masks, splits and licences, streamed, no picture read.

`read_delivery` takes a folder, an `s3://` prefix, WebDataset tars, or a parquet or JSONL manifest.
"""

from assets.curation.readers.delivery import read_delivery
from assets.curation.readers.items import IMAGE_SUFFIXES, Item

__all__ = ["IMAGE_SUFFIXES", "Item", "read_delivery"]
