"""The hash index: what it finds of what brute force finds, and what 10,000 more cost as the base grows."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from assets.curation.duplicates import HashIndex
from tests.benchmarks.promise import Promise

DISTANCE, NEW = 12, 10_000


def hashes(count: int, seed: int) -> np.ndarray:
    """Random 64-bit hashes, one in ten of them near an earlier one: 0 to 16 bits away."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 1 << 63, count, dtype=np.uint64) << np.uint64(1)
    for place in range(9, count, 10):
        near = made[rng.integers(0, place)]
        for bit in rng.choice(63, rng.integers(0, 17), replace=False):
            near ^= np.uint64(1 << (int(bit) + 1))
        made[place] = near
    return made


def promises() -> Iterator[Promise]:
    base = hashes(100_000, 0)
    index = HashIndex(base)
    sample = np.arange(0, len(base), 20)
    found = {
        (int(q), int(b))
        for rows, hits, _ in index.near(base[sample], DISTANCE)
        for q, b in zip(rows, hits, strict=True)
    }
    expected = set()
    for query, place in enumerate(sample.tolist()):
        near = np.flatnonzero(np.bitwise_count(base ^ base[place]) <= DISTANCE)
        expected |= {(query, int(other)) for other in near}
    print(f"{len(expected)} pairs within {DISTANCE} bits of {len(sample)} hashes among {len(base)}")
    yield Promise("near pairs found, of brute force's", len(found & expected) / len(expected), 0.995)
    seconds = {}
    for size in (100_000, 1_000_000):
        base, new = hashes(size, 1), hashes(NEW, 2)
        began = time.perf_counter()
        index = HashIndex(base)
        pairs = sum(len(rows) for rows, _, _ in index.near(new, DISTANCE))
        index.add(new)
        seconds[size] = time.perf_counter() - began
        print(f"adding {NEW} to {size}: {seconds[size]:.2f} s, {pairs} candidate pairs")
    yield Promise("adding 10,000 images at 10⁶ hashes", seconds[1_000_000], 20, "s", at_least=False)
