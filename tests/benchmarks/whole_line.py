"""`make run` on preset `nano`, from nothing: its time, its memory, and the quality it reached.

Photographs are added when BACKDROP_SAMPLES names a folder that holds them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from infra.settings import REPOSITORY
from tests.benchmarks.promise import Promise


class Memory(threading.Thread):
    """Peak of the proportional set size of a process, its descendants and the embedded services, once a second."""

    def __init__(self, root: int, state: Path) -> None:
        super().__init__(daemon=True)
        self.root, self.state, self.peak, self.done = root, str(state), 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(1.0):
            total = 0
            for process in self._family():
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def _family(self) -> set[psutil.Process]:
        try:
            family = {psutil.Process(self.root)}
        except psutil.NoSuchProcess:
            return set()
        for process in psutil.process_iter(["cmdline"]):
            if self.state in " ".join(process.info["cmdline"] or []):
                family.add(process)
        for process in list(family):
            try:
                family |= set(process.children(recursive=True))
            except psutil.NoSuchProcess:
                continue
        return family


def promises() -> Iterator[Promise]:
    base = Path(tempfile.mkdtemp(prefix="backdrop-bench-"))
    state = base / "state"
    mine = {name: value for name, value in os.environ.items() if not name.startswith("BACKDROP_")}
    environment = {**mine, "BACKDROP_STATE": str(state)}
    photos = Path(os.environ.get("BACKDROP_SAMPLES", "")) / "photos"
    command = [sys.executable, "-m", "orchestration.cli", "run", "--preset", "nano"]
    if os.environ.get("BACKDROP_SAMPLES") and photos.is_dir():
        command += ["--images", str(photos)]
    try:
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
        memory = Memory(process.pid, state)
        memory.start()
        code = process.wait()
        minutes = (time.monotonic() - began) / 60
        memory.done.set()
        if code:
            raise SystemExit(f"the line ended with exit code {code}")
        yield Promise("make run", minutes, 12, "minutes", at_least=False)
        yield Promise("memory of the whole line", memory.peak / 2**30, 6, "GiB", at_least=False)
        report = next((state / "store/stages/evaluation_report").rglob("result.json"))
        yield from quality(json.loads(report.read_text())["data"]["metrics"])
        filtered = next((state / "store/stages/filtered_shards/sample-nano").rglob("result.json"))
        yield from curation(json.loads(filtered.read_text())["data"]["truth"])
    finally:
        subprocess.run(
            [sys.executable, "-m", "orchestration.cli", "clean"], cwd=REPOSITORY, env=environment, check=False
        )
        shutil.rmtree(base, ignore_errors=True)


def quality(metrics: dict[str, Any]) -> Iterator[Promise]:
    """The evaluation's figures against the line's bars."""
    means = metrics["means"]
    engine, teacher = means["engine"], means["teacher"]
    for name, bar in {"wall_colour": 0.9, "floor_colour": 0.9, "floor_line": 0.75, "shadow_side": 0.75}.items():
        yield Promise(name.replace("_", " "), engine[name], bar)
        yield Promise(
            f"student below teacher, {name.replace('_', ' ')}", 100 * (teacher[name] - engine[name]), 2, "points", False
        )
    for baseline in ("mean colour", "nearest caption", "Telea"):
        ratio = engine["masked_l1"] / means[baseline]["masked_l1"]
        yield Promise(f"background error over {baseline}", ratio, 1, at_least=False)
    yield Promise("product identity", metrics["product_identity"], 1)
    if metrics.get("photographs", {}).get("border_colour") is not None:
        yield Promise("photographs, border colour", metrics["photographs"]["border_colour"], 0.6)


def curation(truth: dict[str, Any]) -> Iterator[Promise]:
    """The planted dirt: what must be dropped is, and nothing clean."""
    for kind in ("corrupt", "truncated", "duplicate"):
        planted = truth["kinds"][kind]
        yield Promise(f"{kind} files dropped", planted["dropped"] / planted["planted"], 1)
    yield Promise("clean files dropped", truth["clean"]["dropped"], 0, at_least=False)
