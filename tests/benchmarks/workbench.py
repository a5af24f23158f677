"""A catalog and a store of their own for one measurement, and what a run costs: seconds, processor seconds, memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from assets.curation import filter as filter_verb
from assets.curation import ingest
from assets.curation.decide import decide
from assets.curation.filter import crew_for
from assets.curation.packing import pack
from assets.curation.scan import scan
from assets.curation.specs import CurationSection, FilterSpec, IngestSpec
from infra.catalog import Catalog
from infra.database import ensure_postgres, remove_postgres
from infra.jobs.program import JobContext
from infra.object_store import DirectoryStore, ObjectStore

#: Size and blur: the structural pass.
STRUCTURAL: dict[str, Any] = {
    "filters": {"detail": {"measures": ("edge_width",)}},
    "skip": ("caption", "exposure", "graphics", "text overlay", "nsfw", "alignment", "aesthetics"),
    "masks": False,
}


@dataclass(frozen=True)
class Cost:
    """`cpu_seconds` of the whole machine, the database's server among them."""

    seconds: float
    cpu_seconds: float


@dataclass
class Workbench:
    """Everything below `folder`."""

    folder: Path
    catalog: Catalog
    store: ObjectStore

    def list(self, uri: str, name: str = "bench") -> None:
        """The verb `ingest`."""
        listing = IngestSpec(store=self.store.uri, output=f"out/{name}/ingest", delivery=name, uri=uri)
        save = self.folder / "save"
        save.mkdir(exist_ok=True)
        ingest.run(listing, JobContext(listing, self.store, listing.output, save))

    def curate(self, name: str = "bench", **config: Any) -> int:
        """What the verb `filter` does up to the commit, without the report; how many pictures were packed."""
        spec = self.spec(name, **config)
        with crew_for(spec) as crew:
            scan(spec, self.catalog, self.store, "bench", crew, lambda _: None)
            decide(spec, self.catalog, "pictures", lambda *_: None)
            slices = pack(spec, self.catalog, self.store, "bench", crew, lambda _: None)
        self.catalog.commit_slices(name, slices)
        return sum(piece.samples for piece in slices)

    def spec(self, name: str, **config: Any) -> FilterSpec:
        section = CurationSection(**{**STRUCTURAL, **config})
        return FilterSpec(store=self.store.uri, output=f"out/{name}", delivery=name, image_size=64, config=section)

    def filter(self, name: str, **config: Any) -> Any:
        """The verb `filter`, whole."""
        section = CurationSection(**config)
        spec = FilterSpec(store=self.store.uri, output=f"out/{name}", delivery=name, image_size=64, config=section)
        return filter_verb.run(spec, JobContext(spec, self.store, spec.output, self.folder / "save"))


@contextlib.contextmanager
def workbench() -> Iterator[Workbench]:
    """An empty one; gone at the end."""
    import psycopg

    folder = Path(tempfile.mkdtemp(prefix="backdrop-bench-"))
    server = ensure_postgres(folder)
    try:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench")
        os.environ["BACKDROP_CATALOG_URL"] = server.url("bench")
        os.environ["BACKDROP_STATE"] = str(folder / "state")
        catalog = Catalog(server.url("bench"))
        catalog.upgrade()
        yield Workbench(folder, catalog, DirectoryStore(folder / "store"))
        catalog.close()
    finally:
        remove_postgres(folder)
        shutil.rmtree(folder, ignore_errors=True)


def cost_of(action: Callable[[], Any]) -> Cost:
    """What an action costs; on a machine that does nothing else."""
    before, began = _cpu(), time.perf_counter()
    action()
    return Cost(time.perf_counter() - began, _cpu() - before)


def _cpu() -> float:
    """Seconds that the machine's processors were busy, since it was started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


class PeakMemory(threading.Thread):
    """The peak of the resident memory of this process and its descendants together, in bytes."""

    def __init__(self, interval: float = 0.1) -> None:
        super().__init__(daemon=True)
        self.peak, self._interval, self._done = 0, interval, threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self._done.wait(self._interval):
            total = 0
            with contextlib.suppress(psutil.Error):
                for process in [me, *me.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_info().rss
            self.peak = max(self.peak, total)

    def stop(self) -> int:
        """The peak."""
        self._done.set()
        self.join()
        return self.peak
