"""Curation: from a delivery of raw images to verdicts in the catalog and filtered shards in the object store."""
