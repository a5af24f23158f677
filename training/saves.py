"""Checkpoints on disk that a resume can trust.

<folder>/step-00000012/        what Composer wrote: whole.pt, or a file per rank (torch.distributed.checkpoint)
<folder>/step-00000012.json    {"step", "files": {name: SHA-256}, "formats": {device: number format}}, written last:
                               without it there is no checkpoint

Composer 0.32.1 unpickles without a guard, so nothing is loaded that this program did not write whole: no autoresume,
but the newest checkpoint all of whose files match. The hash of record is the manifest's: where the job has a catalog
it is a row there, for whoever can write to a bucket can write manifests too.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Protocol

from infra.errors import BackdropError, ServiceError
from infra.files import canonical_json, sha256_bytes, sha256_file, write_atomic
from infra.jobs.ranks import Place
from infra.object_store import ObjectMissing, ObjectStore
from training import ranks

log = logging.getLogger(__name__)

KEPT = 2
WHOLE = "whole.pt"
_NAME = re.compile(r"step-(\d{8})")


class Record(Protocol):
    """Who vouches for manifests."""

    def note(self, name: str, sha256: str) -> None: ...

    def find(self, name: str) -> str | None: ...


class Saves:
    """The checkpoints of one stage of one run, on all ranks. Copies go below `prefix` of `store` where one is given.

    `sharded`: a file per rank. Composer loads a checkpoint only into a run that saves in the same layout.
    """

    def __init__(
        self,
        folder: Path,
        here: Place,
        record: Record | None = None,
        store: ObjectStore | None = None,
        prefix: str = "",
        sharded: bool = False,
    ) -> None:
        self.folder, self.here, self.record, self.store, self.prefix = folder, here, record, store, prefix
        self.sharded = sharded
        self.formats: dict[str, str] = {}
        self._unrecorded: dict[str, str] = {}
        self._passed_over: set[str] = set()

    def place(self, step: int) -> Path:
        """An empty folder to write the checkpoint of `step` into; `commit` makes it count."""
        aside = self.folder / f"step-{step:08d}.partial"
        if self._leads_node:
            for cut_short in self.folder.glob("*.partial"):
                shutil.rmtree(cut_short, ignore_errors=True)
            aside.mkdir(parents=True)
        ranks.everyones(None)  # nobody writes before it is there
        return aside

    def commit(self, step: int) -> None:
        """To be called on every rank once it has written."""
        ranks.everyones(None)  # nobody's files are moved away under it
        name = f"step-{step:08d}"
        final = self.folder / name
        mine: dict[str, str] = {}
        if self._leads_node:
            shutil.rmtree(final, ignore_errors=True)
            self._manifest(name).unlink(missing_ok=True)
            (self.folder / f"{name}.partial").rename(final)
            mine = {path.name: sha256_file(path) for path in sorted(final.iterdir())}
            self._copy(name, mine)
        files = {file: digest for part in ranks.everyones(mine) for file, digest in part.items()}
        manifest = canonical_json({"step": step, "files": files, "formats": self.formats})
        if self._leads_node:
            write_atomic(self._manifest(name), manifest)
        if self.here.rank == 0:
            self._note(name, sha256_bytes(manifest))
            if self.store is not None:
                self.store.put(f"{self.prefix}/{name}.json", manifest)
        self._passed_over.discard(name)
        self._prune(ranks.from_first(set(self._unrecorded)))

    def newest(self) -> Path | None:
        """The newest checkpoint that is what was written; others are named in the log and passed over."""
        for name, expected in ranks.from_first(self._known() if self.here.rank == 0 else []):
            problem = self._problem(name, expected) if self._leads_node else ""
            problem = next(filter(None, ranks.everyones(problem)), "")
            if not problem:
                return self.folder / name
            self._passed_over.add(name)
            if self.here.rank == 0:
                log.warning("checkpoint %s is passed over: %s", self.folder / name, problem)
        return None

    def _known(self) -> list[tuple[str, str | None]]:
        """Checkpoints by name, newest first, each with the hash of record of its manifest."""
        keys = [path.name for path in self.folder.glob("step-*.json")]
        keys += self.store.list(f"{self.prefix}/step-") if self.store is not None else []
        stems = {Path(key).stem for key in keys if key.endswith(".json")}
        names = sorted((stem for stem in stems if _NAME.fullmatch(stem)), reverse=True)
        return [(name, self.record.find(name) or "" if self.record is not None else None) for name in names]

    def _problem(self, name: str, expected: str | None) -> str:
        """What is wrong with a checkpoint on this node, after fetching what is only in the store; "" for nothing."""
        try:
            manifest = self._fetched(name, self._manifest(name)).read_bytes()
            if expected == "":
                return "the catalog has no record of it"
            if expected is not None and sha256_bytes(manifest) != expected:
                return "its manifest does not match the catalog's record"
            files = json.loads(manifest)["files"]
            if self.sharded and WHOLE in files:
                return "it is one file, and this run saves a file per rank (checkpoints: whole goes on from it)"
            if not self.sharded and WHOLE not in files:
                return "it is a file per rank, and this run saves one (checkpoints: sharded goes on from it)"
            for file, digest in files.items():
                if sha256_file(self._fetched(f"{name}/{file}", self.folder / name / file)) != digest:
                    return f"{file} is cut short or was changed (its SHA-256 does not match the manifest's)"
        except (FileNotFoundError, ObjectMissing) as error:
            return f"a file is missing ({error})"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"its manifest cannot be read ({error})"
        return ""

    def _fetched(self, key: str, path: Path) -> Path:
        if not path.exists() and self.store is not None:
            suffix = "" if path.parent != self.folder else ".json"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.store.fetch(f"{self.prefix}/{key}{suffix}", path)
        return path

    def _note(self, name: str, digest: str) -> None:
        """A catalog that is away does not stop a training: its checkpoints count once they are recorded."""
        if self.record is None:
            return
        self._unrecorded[name] = digest
        try:
            for waiting in list(self._unrecorded):
                self.record.note(waiting, self._unrecorded[waiting])
                del self._unrecorded[waiting]
        except ServiceError as error:
            log.warning("the catalog cannot record the checkpoint %s, which does not count meanwhile: %s", name, error)

    def _copy(self, name: str, files: dict[str, str]) -> None:
        if self.store is not None:
            for file in files:
                self.store.put_file(f"{self.prefix}/{name}/{file}", self.folder / name / file)

    def _prune(self, unrecorded: set[str]) -> None:
        """Keeps the newest, and while the catalog is away also the newest that it has recorded: only those count."""
        if not self._leads_node:
            return
        names = {path.stem for path in self.folder.glob("step-*.json") if _NAME.fullmatch(path.stem)}
        names -= self._passed_over  # which nobody resumes; they stay for people to look at
        kept = {*sorted(names)[-KEPT:], *sorted(names - unrecorded)[-KEPT:]}
        for name in names - kept:
            self._unrecorded.pop(name, None)
            self._manifest(name).unlink()
            shutil.rmtree(self.folder / name, ignore_errors=True)
            if self.store is not None and self.here.rank == 0:
                self.store.delete(f"{self.prefix}/{name}.json")
                self.store.delete_prefix(f"{self.prefix}/{name}/")

    def _manifest(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    @property
    def _leads_node(self) -> bool:
        return self.here.local_rank == 0


def step_of(checkpoint: Path) -> int:
    found = _NAME.fullmatch(checkpoint.name)
    if found is None:
        raise BackdropError(f"{checkpoint} is not named like a checkpoint", "give a folder step-<8 digits>")
    return int(found[1])


def loadable(checkpoint: Path) -> Path:
    """What Composer loads of a checkpoint: its one file, or the folder of its parts."""
    whole = checkpoint / WHOLE
    return whole if whole.exists() else checkpoint


def formats_of(checkpoint: Path) -> dict[str, str]:
    """The number format of each device that a checkpoint's run has computed on."""
    return json.loads(checkpoint.with_suffix(".json").read_bytes()).get("formats", {})


class CatalogRecord:
    """Hashes of record as rows of the catalog. `run` names the stage's checkpoints among all."""

    def __init__(self, url: str, run: str) -> None:
        from infra.catalog import Catalog

        self._catalog, self._run = Catalog(url), run

    def note(self, name: str, sha256: str) -> None:
        self._catalog.record_checkpoint(self._run, name, sha256)

    def find(self, name: str) -> str | None:
        return self._catalog.checkpoint(self._run, name)

    def close(self) -> None:
        self._catalog.close()
