"""What loading the definitions costs over `import dagster`, and `backdrop --help`: medians of fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from infra.settings import REPOSITORY
from tests.benchmarks.promise import Promise

ROUNDS = 5
HEAVY = ("torch", "composer", "streaming", "mlflow", "great_expectations", "kubernetes", "boto3", "pandas")
LOAD = f"""
import json, resource, sys, time
import dagster
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, began = peak(), time.perf_counter()
import orchestration.definitions as module
module.defs.resolve_all_job_defs()
print(json.dumps([time.perf_counter() - began, peak() - before, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""


def promises() -> Iterator[Promise]:
    found = [json.loads(_run([sys.executable, "-c", LOAD])) for _ in range(ROUNDS)]
    yield Promise("loading the definitions", statistics.median(one[0] for one in found), 1.5, "s", at_least=False)
    yield Promise("its memory", statistics.median(one[1] for one in found), 60, "MB", at_least=False)
    yield Promise("heavy packages among what it imports", len(found[0][2]), 0, at_least=False)
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        _run([sys.executable, "-m", "orchestration.cli", "--help"])
        taken.append(time.perf_counter() - began)
    yield Promise("backdrop --help", statistics.median(taken), 0.5, "s", at_least=False)


def _run(command: list[str]) -> str:
    return subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    for promise in promises():
        print(promise)
