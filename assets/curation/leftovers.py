"""What killed jobs left behind and nobody knows of, as far as it may hold images that were taken down.

Slices that were never committed or never recorded, half-written files, temporary folders. Look for them only while no
job runs: one at work leaves the same things behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path

from infra.errors import BackdropError
from infra.files import ASIDE_PREFIX
from infra.jobs.folder import BROKEN_BATCH, JobFolder
from infra.object_store import ObjectStore
from infra.shards import COMMIT, Slice, delete_slice, read_slices, withdraw_slice
from infra.shards.slices import recorded_slice
from training.latent_slices import ROOT as LATENTS
from training.latent_slices import recorded_latents
from training.personalise.subject import unrecorded_photographs

FILTERED = "filtered/"


class Leftovers:
    """Of a store and a state folder. `known`: ids of the slices that the catalog knows; `scratch`: a folder for the
    files of a remote store."""

    def __init__(
        self, store: ObjectStore, state: Path, known: Collection[str], ids: Collection[str], why: str, scratch: Path
    ) -> None:
        self.store, self.state, self.ids, self.why, self.scratch = store, state, ids, why, scratch
        self.known = {*known, *(latents.piece.id for latents in recorded_latents(store))}

    def erase_slices(self) -> int:
        """Deletes slices that were not finished, and finished ones that hold the images; how many objects."""
        count = 0
        for root in (FILTERED, LATENTS):
            for folder, committed in list(_slice_folders(self.store, root)):
                if folder.rpartition("/")[2] in self.known or (committed and not self._holds(folder)):
                    continue
                count += self._erase(folder, committed)
        return count

    def _holds(self, folder: str) -> bool:
        record = recorded_slice(self.store, folder)
        if "withdrawn" in record:
            return False
        piece = Slice(record["id"], folder, record["samples"])
        return any(sample["id"] in self.ids for sample in read_slices(self.store, [piece], self.scratch))

    def _erase(self, folder: str, committed: bool) -> int:
        if committed:
            piece = Slice(folder.rpartition("/")[2], folder, 0)
            withdraw_slice(self.store, piece, self.why)
            return delete_slice(self.store, piece)
        keys = list(self.store.list(f"{folder}/"))
        for key in keys:
            self.store.delete(key)
        return len(keys)

    def erase_photographs(self) -> int:
        """Deletes what a killed recording of a subject left: nobody knows of which files it was made; how many."""
        keys = unrecorded_photographs(self.store)
        for key in keys:
            self.store.delete(key)
        return len(keys)

    def erase_files(self) -> int:
        """Deletes half-written files, and of jobs the temporary folders and the batches that broke a step; how many
        files."""
        jobs = jobs_below(self.state)
        places = [job.path for job in jobs]
        inside = self.store.local_path("x")
        if inside is not None:
            places.append(inside.parent)
        halves = [path for place in places for path in place.rglob(f"{ASIDE_PREFIX}*")]
        broken = [path for job in jobs for path in job.save.glob(f"{BROKEN_BATCH}*")]
        return sum(map(remove_file, [*halves, *broken])) + sum(remove_folder(job.path / "tmp") for job in jobs)


def jobs_below(state: Path) -> list[JobFolder]:
    """The folders of all jobs that ran with this state folder."""
    return [JobFolder(path) for path in sorted((state / "jobs").glob("*")) if path.is_dir()]


def is_free(folder: JobFolder) -> bool:
    """Whether no job holds the folder."""
    try:
        folder.check_free()
    except BackdropError:
        return False
    return True


def _slice_folders(store: ObjectStore, root: str) -> Iterator[tuple[str, bool]]:
    """(key prefix of a slice's folder, whether the slice is committed) below a root."""
    keys = (key for key in store.list(root) if key.count("/") > root.count("/"))
    for folder, inside in groupby(keys, key=lambda key: key.rpartition("/")[0]):
        yield folder, any(key.endswith(f"/{COMMIT}") for key in inside)


def remove_folder(folder: Path) -> int:
    """Deletes a folder; how many files were in it."""
    count = sum(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return count


def remove_file(path: Path) -> int:
    """Deletes a file, if it is there; how many files that were."""
    found = path.is_file()
    path.unlink(missing_ok=True)
    return int(found)
