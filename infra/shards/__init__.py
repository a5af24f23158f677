"""Slices of a data set as MDS shards: written aside, content-addressed, committed by one small object at the end.

A slice is the unit of work, of retry and of commit. Its objects lie under ``<root>/<id>/``; ``slice.json`` is written
last and only then does the slice exist: a process killed at any moment leaves objects that nobody takes for whole, and
running again writes the same bytes under the same keys. A dataset version is the content hash of a list of slices.

`slices` writes and commits, `versions` lists, `reading` reads (`mds` one file), `takedown` takes samples out again.
"""

from infra.shards.reading import Samples, local_slice, read_slices
from infra.shards.slices import (
    COMMIT,
    FILTERED_COLUMNS,
    INDEX,
    Slice,
    Withdrawn,
    load_slice,
    shard_places,
    write_slice,
)
from infra.shards.takedown import delete_slice, rewrite_slice, withdraw_slice, withdraw_version
from infra.shards.versions import (
    DatasetVersion,
    load_version,
    make_version,
    merged_index_key,
    recorded_version,
    version_of,
)

__all__ = [
    "COMMIT",
    "FILTERED_COLUMNS",
    "INDEX",
    "DatasetVersion",
    "Samples",
    "Slice",
    "Withdrawn",
    "delete_slice",
    "load_slice",
    "load_version",
    "local_slice",
    "make_version",
    "merged_index_key",
    "read_slices",
    "recorded_version",
    "rewrite_slice",
    "shard_places",
    "version_of",
    "withdraw_slice",
    "withdraw_version",
    "write_slice",
]
