"""Rows into PostgreSQL: a delivery's listing, new and again, and verdicts."""

from __future__ import annotations

import time
from collections.abc import Iterator

from infra.catalog.rows import SightingRow, VerdictRow
from tests.benchmarks.promise import Promise
from tests.benchmarks.workbench import workbench

ROWS = 300_000


def sightings() -> Iterator[SightingRow]:
    for k in range(ROWS):
        yield SightingRow(
            uri=f"s3://bucket/deliveries/monday/{k // 1000:04d}/{k:08d}.jpg",
            etag=f"{k:032x}",
            licence="CC-BY-4.0",
            source="a supplier",
            captions=["a red vase on a wooden table"],
            attributes={"sku": k},
        )


def promises() -> Iterator[Promise]:
    with workbench() as bench:
        catalog = bench.catalog
        catalog.add_delivery("monday", "s3://bucket/deliveries/monday", "pictures")
        listing = list(sightings())
        for name in ("a new listing", "the same again"):
            began = time.perf_counter()
            assert catalog.ingest("monday", iter(listing)) == ROWS
            rate = ROWS / (time.perf_counter() - began)
            print(f"{name}: {rate:.0f} rows/s")
            yield Promise(f"catalog rows/s: {name}", rate, 100_000)
        rows = [VerdictRow(k, f"{k:064x}", "size", "1", "keep", 512.0) for k in range(ROWS)]
        began = time.perf_counter()
        catalog.write_verdicts("monday", rows)
        yield Promise("catalog rows/s: verdicts", ROWS / (time.perf_counter() - began), 100_000)
