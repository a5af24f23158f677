"""A finished line for benchmarks that need trained weights: one per process, run here or copied from BENCH_STORE."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from infra.object_store import ObjectStore, open_store
from infra.settings import REPOSITORY


@functools.cache
def finished_line() -> ObjectStore:
    """The store of a `make run` of preset nano, gone when this process ends.

    A copy of the one at BENCH_STORE, a folder, for benchmarks write to it; else a line that is run now, in minutes.
    """
    base = Path(tempfile.mkdtemp(prefix="backdrop-bench-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    given = os.environ.get("BENCH_STORE")
    if given:
        shutil.copytree(given.removeprefix("file://"), base / "state" / "store")
    else:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("BACKDROP_")}
        environment = {**mine, "BACKDROP_STATE": str(base / "state")}
        command = [sys.executable, "-m", "orchestration.cli"]
        atexit.register(subprocess.run, [*command, "clean"], cwd=REPOSITORY, env=environment, check=False)
        subprocess.run([*command, "run", "--preset", "nano"], check=True, cwd=REPOSITORY, env=environment)
    return open_store(f"file://{base}/state/store")
