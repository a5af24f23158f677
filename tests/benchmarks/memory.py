"""Peak resident memory of curation at 10,000 and at 100,000 pictures: two workers, without the database's server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.settings import REPOSITORY
from tests.benchmarks.corpus import write_corpus
from tests.benchmarks.promise import Promise

FEW, MANY = 10_000, int(os.environ.get("BENCH_MANY", "100000"))
SIDE = 96  # pixels: the number of pictures is what is measured
_MEASURE = """
import json, sys
from tests.benchmarks.workbench import PeakMemory, workbench
if __name__ == "__main__":
    with workbench() as bench:
        memory = PeakMemory()
        memory.start()
        bench.list(sys.argv[1])
        packed = bench.curate(workers=2)
        print(json.dumps({"packed": packed, "peak": memory.stop()}))
"""


def promises() -> Iterator[Promise]:
    folder = Path(tempfile.mkdtemp(prefix="backdrop-corpus-"))
    try:
        write_corpus(folder / "many", MANY, SIDE)
        few = folder / "few"
        few.mkdir()
        for part in sorted((folder / "many").iterdir())[: FEW // 1000]:
            shutil.copytree(part, few / part.name, copy_function=os.link)
        peaks = {}
        for name, count in (("few", FEW), ("many", MANY)):
            found = measure(folder / name, folder)
            print(f"{count} pictures: {found['packed']} packed, peak {found['peak'] / 2**20:.0f} MiB", flush=True)
            peaks[name] = found["peak"]
        yield Promise("curation's memory, ten times the pictures", peaks["many"] / peaks["few"], 1.1, at_least=False)
        yield Promise("curation's memory", peaks["many"] / 1e9, 1.5, "GB", at_least=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(pictures: Path, folder: Path) -> dict[str, int]:
    """In a process of its own, that the corpus has not been drawn in."""
    script = folder / "measure.py"
    script.write_text(_MEASURE)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(script), str(pictures)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
