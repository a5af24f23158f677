"""`backdrop takedown`: the order, what it reaches, its execution, and a training_set without the images.

The order counts from its first second; everything after it may be interrupted and is finished by the same command.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import BackdropError, ServiceError
from infra.files import sha256_bytes, sha256_file
from infra.settings import Settings
from orchestration.screen import plain
from orchestration.taint import show_champion

if TYPE_CHECKING:
    from assets.curation.takedown import Report
    from assets.line import Line
    from infra.catalog import Catalog
    from infra.catalog.takedowns import Held
    from infra.object_store import ObjectStore

_LISTED = 20  # sources named on the terminal; all are in the catalog's report


def take_down(settings: Settings, console: Console, target: str, reason: str, dry_run: bool) -> dict[str, Any]:
    """Order and carry out; what came of it. Raises BackdropError for a target that nobody knows, ServiceError while
    jobs hold copies."""
    from assets.curation.takedown import Takedown, withdraw
    from assets.line import Line
    from orchestration.remembered import as_last_run
    from orchestration.run import only_run
    from orchestration.services import services
    from orchestration.status import remember_models

    with services(settings, console) as environment:
        os.environ.update({**environment, **as_last_run(settings)})
        settings = Settings.load()
        line = Line()
        ids, unread = find_images(line.store, line.catalog, target)
        held = line.catalog.held(ids)
        show_held(console, line, ids, held, unread)
        document = {"target": target, "reason": reason, "dry_run": dry_run, "images": ids, "held": plain(held)}
        document |= {"unread": unread, "order": None, "report": None, "training_set": None}
        if dry_run:
            console.print("dry run: nothing was changed")
            return document
        order = line.catalog.order_takedown(target, reason, ids)
        withdraw(line.store, held, order.why)
        console.print(f"takedown {order.id} is in effect: the images are on the skip list")
        with only_run(settings), console.status("") as status:
            report = Takedown(
                line.store, line.catalog, settings.state, order, ids, status.update, line.launcher.elsewhere
            ).run()
            report.models = tag_models(line, ids, report, order.why)
            show_champion(line)
            status.update("making a training_set without them")
            made = new_training_set(line, report)
        show_report(console, report, made)
        if line.store.uri.startswith("s3://"):
            console.print("a bucket that keeps old versions of its objects keeps these too: expire them there")
        if report.running:
            raise ServiceError(
                f"takedown {order.id} is not finished: {', '.join(report.running)} still runs and may hold copies",
                "run the same command again when it has ended",
            )
        line.catalog.finish_takedown(order.id, report.as_dict())
        remember_models(line)
        console.print(f"takedown {order.id} is carried out")
        return document | {"order": order.id, "report": report.as_dict(), "training_set": made}


def find_images(store: ObjectStore, catalog: Catalog, target: str) -> tuple[list[str], list[str]]:
    """Ids of the images that `target` (an id, a prefix of URIs or sources, or a copy of the picture) means, and the
    URIs below the prefix that nobody has scanned and that cannot be read now. Raises BackdropError when there is none.

    A subject's photograph is meant by every id it goes by, and all of them are in the answer.
    """
    from training.personalise.subject import every_subject

    photographs = {key: subject.ids_of(key) for subject in every_subject(store) for key in subject.photographs}

    def is_known(image_id: str) -> bool:
        return catalog.is_image(image_id) or any(image_id in ids for ids in photographs.values())

    if not target.strip():
        raise BackdropError("an empty target would take everything down", "give an image id or a prefix of sources")
    if is_image_id(target):
        found = {target} if is_known(target) else set()
        unread: list[str] = []
    else:
        path = Path(target).expanduser()
        slash = "/" if target.endswith("/") else ""  # else the folder `mug/` would mean `mug-2/` too
        prefixes = (target,) if "://" in target else (target, path.absolute().as_uri() + slash)
        known, unscanned = catalog.images_at(prefixes)
        hashed = {uri: _hash(uri) for uri in unscanned}
        found = {*known, *filter(None, hashed.values())}
        found.update(*(ids for key, ids in photographs.items() if f"{store.uri}/{key}".startswith(prefixes)))
        unread = [uri for uri, image_id in hashed.items() if image_id is None]
        if not found and path.is_file() and is_known(digest := sha256_file(path)):
            found = {digest}
    found |= catalog.ordered_images(target)  # what is erased already is in no record that would tell
    found.update(*(ids for ids in photographs.values() if not ids.isdisjoint(found)))
    if not found and unread:
        raise BackdropError(
            f"none of the {len(unread)} pictures at {target} was scanned, and they cannot be read now",
            "materialise filtered_shards of their delivery, then order the takedown again",
        )
    if not found:
        raise BackdropError(
            f"the catalog has met no image {target!r}",
            "give an image id (64 hexadecimal digits), the beginning of a URI or source, or a copy of the picture",
        )
    return sorted(found), unread


def is_image_id(text: str) -> bool:
    """Whether this is spelled as an image id."""
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _hash(uri: str) -> str | None:
    """The image id behind a URI that was listed but not scanned yet."""
    from infra.object_store import read_uri

    try:
        return sha256_bytes(read_uri(uri))
    except BackdropError:
        return None


def tag_models(line: Line, ids: list[str], report: Report, why: str) -> list[str]:
    """Tags every registered version trained on the images or made from such a model; "name version n" of each."""
    from deploy.ancestry import reached
    from deploy.registry import REGISTERED_NAMES, Registry

    models = reached(line.store, line.catalog.models(), report.trained, ids)
    if not models:
        return []
    registry = Registry(line.tracking.uri)
    named = []
    for model in models:
        name = REGISTERED_NAMES.get(model.asset, model.asset)
        versions = registry.taint(name, model.id, why)
        named += [f"{name} version {version}" for version in versions] or [f"{name} (bundle {model.id[:12]})"]
    return named


def new_training_set(line: Line, report: Report) -> str:
    """Materialises training_set; says what came of it. That nothing is left to train on is no failure of a takedown."""
    if not report.versions:
        return "no dataset version held them: training_set stays as it is"
    import dagster as dg

    from orchestration.automation import training_set_job
    from orchestration.definitions import defs
    from orchestration.run import execute

    with dg.DagsterInstance.get() as instance:
        try:
            done = execute(defs, training_set_job.name, instance, line)
        except BackdropError as error:
            return f"training_set was not made: {error.what}"
    metadata = done.get_asset_materialization_events()[0].materialization.metadata
    return f"training_set is now {metadata['dataset_version'].value} ({metadata['images'].value} images)"


def show_held(console: Console, line: Line, ids: list[str], held: Held, unread: list[str]) -> None:
    """What the order reaches."""
    from training.latent_slices import latents_of
    from training.personalise.subject import every_subject

    latents = latents_of(line.store, {holding.piece.id for holding in held.slices})
    subjects = [subject.name for subject in every_subject(line.store) if not set(ids).isdisjoint(subject.image_ids)]
    rows: list[tuple[str, int, str]] = [
        ("images", len(ids), _some(ids)),
        ("sightings", len(held.sightings), _some([uri for uri, _ in held.sightings])),
        ("slices", len(held.slices), _some([f"{h.piece.id[:12]} ({h.delivery}, {h.state})" for h in held.slices])),
        ("latent slices", len(latents), _some([one.piece.id[:12] for one in latents])),
        ("dataset versions", len(held.versions), _some([version[:16] for version in held.versions])),
        ("models", *_models(line, ids, held)),
        ("subjects", len(subjects), _some(subjects)),
        ("pictures", len(held.pictures), _some(held.pictures)),
        ("quarantined", len(held.quarantine), _some(held.quarantine)),
        ("masks", len(held.masks), _some(held.masks)),
        ("captions", held.captions, ""),
        ("copies, not in this order", len(held.alike), _some(held.alike)),
        ("not scanned and not readable", len(unread), _some(unread)),
    ]
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for column in ("what holds them", "", "which"):
        table.add_column(column, overflow="fold")
    for name, count, which in rows:
        table.add_row(name, str(count), escape(which))
    console.print(table)


def _models(line: Line, ids: list[str], held: Held) -> tuple[int, str]:
    from deploy.ancestry import reached

    models = reached(line.store, line.catalog.models(), held.trained, ids)
    return len(models), _some([f"{model.asset} {model.id[:12]}" for model in models])


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def show_report(console: Console, report: Report, made: str) -> None:
    """What was done, and what is left to others."""
    say: Any = lambda text: console.print(text, highlight=False, soft_wrap=True)  # noqa: E731
    replaced = sum(one["new"] is not None for one in report.rewritten)
    say(
        f"slices rewritten {replaced}, dropped {len(report.rewritten) - replaced}, latent slices {report.latents}, "
        f"objects deleted {report.objects}, local files {report.files}"
    )
    for version in report.versions:
        say(f"withdrawn  dataset version {version}")
    for subject in report.subjects:
        say(f"subject    {subject} has lost photographs")
    for model in report.models:
        say(f"tainted    {escape(model)}")
    say(made)
    if report.sources:
        say("These files are not ours: their owner has to delete them. From now on they are skipped.")
        for uri in report.sources[:_LISTED]:
            say(f"  {escape(uri)}")
        if len(report.sources) > _LISTED:
            say(f"  and {len(report.sources) - _LISTED} more")
    if report.alike:
        say("Copies of them that this order does not name (`backdrop trace` says where they are from):")
        for image_id in report.alike[:_LISTED]:
            say(f"  {image_id}")
