"""`make bench [NAME=…]`: runs the benchmark programs and ends with one line per promise.

A benchmark is a module with `promises() -> Iterator[Promise]`; it prints what it likes while it measures.
"""

from __future__ import annotations

import importlib
import sys

from tests.benchmarks.promise import Promise

#: Rooms of benchmarks; a name without modules has none yet.
BENCHMARKS: dict[str, list[str]] = {
    "curation": ["catalogue", "near_duplicates", "catalog_rows", "dirty", "structural", "memory"],
    "training": ["trunk", "training_job", "training_overhead", "training_gpu", "personalise"],
    "cluster": ["slices"],
    "ship": ["gate", "promotion", "distillation", "engines", "engines_gpu"],
    "operate": ["definitions", "pages", "studio", "whole_line"],
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    kept: list[Promise] = []
    for name in names or list(BENCHMARKS):
        if not BENCHMARKS[name]:
            print(f"{name}: no promises yet")
        for module in BENCHMARKS[name]:
            kept += importlib.import_module(f"tests.benchmarks.{module}").promises()
    print()
    for promise in kept:
        print(promise)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
