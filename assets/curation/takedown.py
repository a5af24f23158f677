"""Carries a takedown out: afterwards nothing that the line ever wrote holds the images any more.

    order (skip list, at once) ─► withdraw: readers refuse ─► rewrite: slices and latents without the images
        ─► erase: old objects, caches, quarantine, masks, captions, pictures, our own copies, photographs of subjects
        ─► leftovers of killed jobs

Every step may be repeated, and what it needs is found anew each time: kill it anywhere and run it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.curation.leftovers import Leftovers, is_free, jobs_below, remove_file, remove_folder
from infra.object_store import ObjectStore, path_of
from infra.shards import (
    COMMIT,
    INDEX,
    Slice,
    delete_slice,
    read_slices,
    rewrite_slice,
    shard_places,
    withdraw_slice,
    withdraw_version,
)
from infra.shards.versions import version_key
from training.latent_slices import LatentSlice, examples_of, latents_of, rewrite_latents
from training.personalise.subject import every_subject, forget_photographs

if TYPE_CHECKING:
    from infra.catalog import Catalog
    from infra.catalog.takedowns import Held, HoldingSlice, TakedownRow

OURS = "deliveries/"
"""Where the line itself writes pictures as if they were delivered; what lies elsewhere is somebody else's."""

NAMED_AFTER = {"quarantine/": "", "masks/": ".png", "captions/": ".json"}
"""Roots of objects at `<root><folder>/<image id><suffix>`."""


@dataclass
class Report:
    """What a takedown did, as the catalog keeps it."""

    images: int
    rewritten: list[dict[str, Any]] = field(default_factory=list)  # {"delivery", "old", "new" (None: nothing left)}
    latents: int = 0  # latent slices that were rewritten or withdrawn
    versions: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)  # of personalisation, that lost photographs
    objects: int = 0  # deleted from the store
    files: int = 0  # deleted from this machine beside the store
    sources: list[str] = field(default_factory=list)  # files that only their owner can delete
    alike: list[str] = field(default_factory=list)  # near and semantic duplicates that the order does not name
    running: list[str] = field(default_factory=list)  # jobs that may still hold copies
    models: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def withdraw(store: ObjectStore, held: Held, why: str) -> None:
    """From here on every reader refuses the slices, their latents and the dataset versions that hold the images."""
    for holding in held.slices:
        if store.exists(f"{holding.piece.prefix}/{COMMIT}"):
            withdraw_slice(store, holding.piece, why)
    for latents in latents_of(store, {holding.piece.id for holding in held.slices}):
        withdraw_slice(store, latents.piece, why)
    for version in held.versions:
        if store.exists(version_key(version)):
            withdraw_version(store, version, why)


class Takedown:
    """One order being carried out on the images `ids`. `note` hears what is being done; `elsewhere` names the jobs that
    run on other machines."""

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        state: Path,
        order: TakedownRow,
        ids: Collection[str],
        note: Callable[[str], None] = lambda _: None,
        elsewhere: Callable[[], list[str]] = list,
    ) -> None:
        self.store, self.catalog, self.state, self.order, self.ids = store, catalog, state, order, frozenset(ids)
        self.note, self.elsewhere = note, elsewhere
        self.scratch = state / "takedown"  # where the slices of a remote store pass through

    def run(self) -> Report:
        """Withdraws, rewrites, erases. What jobs that run may still hold is named in `running`."""
        shutil.rmtree(self.scratch, ignore_errors=True)  # one that was killed may have left something
        self.scratch.mkdir(parents=True)
        try:
            return self._run()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _run(self) -> Report:
        held = self.catalog.held(self.ids)
        report = Report(len(self.ids), versions=held.versions, trained=held.trained, alike=held.alike)
        withdraw(self.store, held, self.order.why)
        latents = latents_of(self.store, {holding.piece.id for holding in held.slices})
        for holding in held.slices:
            if holding.state != "withdrawn":
                self.note(f"rewriting slice {holding.piece.id[:12]} of {holding.delivery}")
                mine = [one for one in latents if one.source == holding.piece.id]
                report.rewritten.append(self._rewrite(holding, mine))
        self.note("erasing bytes")
        self._erase_slices([holding.piece for holding in held.slices], latents, report)
        self._erase_objects(held, report)
        self._erase_photographs(report)
        report.running = [folder.path.name for folder in jobs_below(self.state) if not is_free(folder)]
        report.running += self.elsewhere()
        if not report.running:
            self.note("looking for what killed jobs left behind")
            left = Leftovers(self.store, self.state, self.catalog.slice_ids(), self.ids, self.order.why, self.scratch)
            report.objects += left.erase_slices() + left.erase_photographs()
            report.files += left.erase_files()
        self.catalog.forget_images(self.ids)
        return report

    # ── rewriting ─────────────────────────────────────────────────────────────────────────────────────────────

    def _rewrite(self, holding: HoldingSlice, latents: list[LatentSlice]) -> dict[str, Any]:
        """One slice and its latents. The catalog's transaction comes last: before it, all of this is done again."""
        old = holding.piece
        new: Slice | None = None
        # One without its objects was carried out before, and put back by a job that packed meanwhile.
        if holding.state in ("current", "staged") and self.store.exists(f"{old.prefix}/{INDEX}"):
            # Another order may have taken down others of its images.
            without = self.catalog.taken_down(self.catalog.members(old.id))
            new = rewrite_slice(self.store, old, without, scratch=self.scratch)
            if new is not None:
                for one in latents:
                    rewrite_latents(self.store, one, new.id, without, self.scratch)
        members = self._members(new) if new is not None else ()
        self.catalog.replace_slice(holding.delivery, old, new, members)
        return {"delivery": holding.delivery, "old": old.id, "new": new.id if new is not None else None}

    def _members(self, piece: Slice) -> Iterator[tuple[str, str, int]]:
        samples = read_slices(self.store, [piece], self.scratch)
        for sample, (shard, place) in zip(samples, shard_places(self.store, piece), strict=True):
            yield sample["id"], shard, place

    # ── erasing ───────────────────────────────────────────────────────────────────────────────────────────────

    def _erase_slices(self, pieces: list[Slice], latents: list[LatentSlice], report: Report) -> None:
        for job in jobs_below(self.state):
            for piece in [*pieces, *(one.piece for one in latents)]:
                report.files += remove_folder(job.save / "cache" / piece.id)
        for one in latents:
            self._erase_latents(one, report)
        for piece in pieces:
            if self.store.exists(f"{piece.prefix}/{COMMIT}"):
                report.objects += delete_slice(self.store, piece)

    def _erase_latents(self, latents: LatentSlice, report: Report) -> None:
        report.objects += delete_slice(self.store, latents.piece) + 1
        report.latents += 1
        self.store.delete(f"{latents.key}.json")  # last: by it they are found

    def _erase_objects(self, held: Held, report: Report) -> None:
        """Single objects: quarantine, masks, captions, pictures, examples, and what we delivered to ourselves."""
        own = {place: self._own_key(place) for pair in held.sightings for place in pair if place}
        copies = [key for key in own.values() if key]
        named = _named_after(self.store, self.ids)
        for key in {*held.quarantine, *held.masks, *held.pictures, *named, *examples_of(self.store, self.ids), *copies}:
            report.objects += self.store.exists(key)
            self.store.delete(key)
        self.catalog.forget_shown(held.pictures)
        # A delivery that is rendered for a remote store passes through the job's own folder.
        for key in copies:
            for job in jobs_below(self.state):
                report.files += remove_file(job.save / "delivery" / key.split("/", 2)[2])
        report.sources = sorted({uri for uri, _ in held.sightings if not own[uri]})

    def _erase_photographs(self, report: Report) -> None:
        """What subjects of personalisation have of the images."""
        for subject in every_subject(self.store):
            if gone := forget_photographs(self.store, subject, self.ids):
                report.subjects.append(subject.name)
                report.objects += len(gone)

    def _own_key(self, uri: str) -> str | None:
        """The store's key of a picture that the line itself delivered; None for anybody else's file."""
        root = f"{self.store.uri}/"
        if uri.startswith(root):
            key = uri.removeprefix(root)
            if uri.startswith("file:"):
                key = str(path_of(uri).relative_to(path_of(self.store.uri)))
            return key if key.startswith(OURS) else None
        return None


def _named_after(store: ObjectStore, ids: Collection[str]) -> Iterator[str]:
    """Keys of the objects that are named after one of the images, whether the catalog knows of them or not."""
    for root, suffix in NAMED_AFTER.items():
        for folder in _folders(store, root):
            yield from (key for image_id in ids if store.exists(key := f"{folder}{image_id}{suffix}"))


def _folders(store: ObjectStore, root: str) -> Iterator[str]:
    """The folders directly below a root: each is found by its first key, however many it holds."""
    after = ""
    while key := next(iter(store.list(root, after)), None):
        folder = key[: key.index("/", len(root)) + 1] if "/" in key[len(root) :] else ""
        if folder:
            yield folder
        after = f"{folder}~" if folder else key  # "~" sorts behind the hexadecimal names in that folder
