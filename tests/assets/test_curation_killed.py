"""kill -9 at random moments of a whole curation: run again, it gives the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assets.curation.specs import CurationSection, FilterSpec, IngestSpec
from infra.catalog import Catalog
from infra.object_store import DirectoryStore
from infra.settings import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

#: Raise it for a longer look: CURATION_KILLS=20.
KILLS = int(os.environ.get("CURATION_KILLS", "3"))
SAMPLE = "sample://tiny?count=260&holdout=20&size=64&seed=9&dirt=0.2"


class Runs:
    """The two verbs as processes, on one catalog and store."""

    def __init__(self, catalog_url: str, folder: Path) -> None:
        self.store = DirectoryStore(folder / "store")
        self.catalog = Catalog(catalog_url)
        self.folder = folder
        self.environment = {
            **os.environ,
            "BACKDROP_CATALOG_URL": catalog_url,
            "BACKDROP_STATE": str(folder / "state"),
        }

    def start(self, verb: str) -> subprocess.Popen[bytes]:
        places = {"store": self.store.uri, "output": f"out/{verb}", "delivery": "d"}
        spec: IngestSpec | FilterSpec
        if verb == "ingest":
            spec = IngestSpec(**places, uri=SAMPLE)
        else:
            spec = FilterSpec(**places, image_size=64, config=CurationSection(slice_size=32))
        path = self.folder / f"{verb}.json"
        path.write_text(spec.model_dump_json())
        command = [sys.executable, "-m", "assets.curation", verb, "--spec", str(path)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def finish(self, verb: str) -> float:
        began = time.monotonic()
        assert self.start(verb).wait(300) == 0
        return time.monotonic() - began

    def made(self) -> dict[str, bytes]:
        """Every object of the delivery's slices."""
        pieces = self.catalog.slices(delivery="d")
        keys = [key for piece in pieces for key in self.store.list(f"{piece.prefix}/")]
        return {key: self.store.get(key) for key in keys}

    def members(self) -> list[str]:
        return sorted(one for piece in self.catalog.slices(delivery="d") for one in self.catalog.members(piece.id))


def test_killed_at_random_moments_the_bytes_are_the_same(catalog_url: str, tmp_path: Path) -> None:
    undisturbed = Runs(catalog_url, tmp_path / "undisturbed")
    undisturbed.folder.mkdir()
    undisturbed.finish("ingest")
    seconds = undisturbed.finish("filter")
    made, members = undisturbed.made(), undisturbed.members()
    assert len(members) == len(set(members)) > 200
    with undisturbed.catalog.engine.begin() as connection:  # as if nothing had been scanned or packed
        for table in ("scanned_slices", "slices", "kept", "verdicts", "copies"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    disturbed = Runs(catalog_url, tmp_path / "disturbed")
    disturbed.folder.mkdir()
    disturbed.finish("ingest")
    seed = int.from_bytes(os.urandom(4), "big")
    moments = random.Random(seed)
    print(f"seed {seed}, an undisturbed run takes {seconds:.1f} s")
    for _ in range(KILLS):
        process = disturbed.start("filter")
        time.sleep(moments.uniform(0.5, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    disturbed.finish("filter")
    assert disturbed.members() == members
    assert disturbed.made() == made
