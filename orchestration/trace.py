"""`backdrop trace` and `backdrop quarantine`: the catalog's answers as tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from infra.errors import BackdropError
from infra.files import sha256_file
from infra.settings import Settings
from orchestration.screen import plain, records, show_table

if TYPE_CHECKING:
    from assets.line import Line


_FACTS = ("format", "width", "height", "bytes")
_MODEL = ("asset", "id", "dataset_version", "mlflow_run")
_ORIGIN = ("delivery", "kind", "split", "licence", "source", "images")


@contextmanager
def _open_line(settings: Settings, console: Console) -> Iterator[Line]:
    from assets.line import Line
    from orchestration.services import services

    with services(settings, console) as environment:
        os.environ.update(environment)
        yield Line()


def trace_image(settings: Settings, console: Console, target: str) -> dict[str, Any]:
    """Where an image (an id, or a copy of the file) comes from and where it went. Raises BackdropError if unknown."""
    from deploy.ancestry import reached
    from orchestration.takedown import is_image_id
    from training.personalise.subject import every_subject

    path = Path(target).expanduser()
    if not is_image_id(target) and not path.is_file():
        raise BackdropError(f"{target!r} is neither an image id nor a file", "give 64 hexadecimal digits or a picture")
    image_id = target if is_image_id(target) else sha256_file(path)
    with _open_line(settings, console) as line:
        found = line.catalog.trace_image(image_id)
        taught = [subject.name for subject in every_subject(line.store) if image_id in subject.image_ids]
        order = line.catalog.takedown_of(image_id)
        if not (found.known or found.pictures or taught or order):
            raise BackdropError(f"the catalog has not met the image {image_id}", "look in the right state folder?")
        models = {model.id: model for model in reached(line.store, line.catalog.models(), (), [image_id])}
        models |= {model.id: model for model in found.models}
        document = {
            "image": image_id,
            "takedown": {"at": plain(order.at), "reason": order.why, "done": bool(order.finished_at)}
            if order
            else None,
            "facts": dict(zip(_FACTS, found.facts, strict=True)) if found.facts else None,
            "where_from": records(("delivery", "uri", "source", "licence", "split"), found.sightings),
            "verdicts": records(
                ("delivery", "filter", "filter_version", "decision", "score", "reason"), found.verdicts
            ),
            "quarantine": records(("delivery", "reason", "detail", "key"), found.quarantine),
            "copies": records(("delivery", "image_id", "of", "distance", "similarity"), found.copies),
            "slices": records(("delivery", "id", "split", "bucket", "state", "shard", "place"), found.slices),
            "dataset_versions": records(("version", "samples", "withdrawn", "trained"), found.versions),
            "models": records(_MODEL, models.values()),
            "subjects": taught,
            "pictures": [f"{line.store.uri}/{key}" for key in found.pictures],
        }
        _show_image(console, document)
        return document


def _show_image(console: Console, document: dict[str, Any]) -> None:
    console.print(f"image {document['image']}", highlight=False)
    if order := document["takedown"]:
        done = "carried out" if order["done"] else "not finished"
        console.print(f"[bold red]taken down[/bold red] {order['at'][:10]}: {escape(order['reason'])} ({done})")
    if facts := document["facts"]:
        console.print(
            f"{facts['format'] or 'no picture'}, {facts['width']} × {facts['height']}, {facts['bytes']:,} bytes",
            highlight=False,
        )
    for name in ("where_from", "verdicts", "quarantine", "copies", "slices", "dataset_versions", "models"):
        show_table(console, document[name], name.replace("_", " "))
    if document["subjects"]:
        console.print(f"a photograph of {', '.join(document['subjects'])}", highlight=False)
    if document["pictures"]:
        console.print("pictures that show it")
        for uri in document["pictures"]:
            console.print(f"  {uri}", markup=False, highlight=False, soft_wrap=True)


def trace_model(settings: Settings, console: Console, name_and_alias: str, listing: Path | None) -> dict[str, Any]:
    """What a registered model was made of: its ancestors, their dataset versions, and where those images came from.

    `listing`: a file that gets one JSON line per image, streamed. Raises BackdropError for an unknown model or alias.
    """
    from deploy.ancestry import ancestors
    from deploy.registry import REGISTERED_NAMES, Registry

    name, _, alias = name_and_alias.partition("@")
    if name not in REGISTERED_NAMES.values() or not alias:
        known = ", ".join(sorted(REGISTERED_NAMES.values()))
        raise BackdropError(f"{name_and_alias!r} names no model", f"write <name>@<alias>; names are {known}")
    with _open_line(settings, console) as line:
        registry = Registry(line.tracking.uri)
        version = registry.get_alias(name, alias)
        if version is None:
            there = ", ".join(registry.aliases(name)) or "none"
            raise BackdropError(f"{name} has no alias '{alias}'", f"its aliases are: {there}")
        models = {model.id: model for model in line.catalog.models()}
        chain = [models[bundle] for bundle in ancestors(line.store, version.bundle) if bundle in models]
        console.print(f"{name}@{alias} is version {version.version}, bundle {version.bundle}", highlight=False)
        made_from = records(_MODEL, chain)
        show_table(console, made_from, "made from")
        datasets: list[dict[str, Any]] = []
        for dataset in dict.fromkeys(model.dataset_version for model in chain):
            withdrawn = line.catalog.withdrawn(dataset)
            origins = records(_ORIGIN, line.catalog.origin_counts(dataset))
            title = f"dataset version {dataset}" + (f" (withdrawn: {withdrawn})" if withdrawn else "")
            show_table(console, origins, title)
            datasets.append({"version": dataset, "withdrawn": withdrawn, "origins": origins})
        if listing is not None:
            with listing.open("w") as file:
                for one in datasets:
                    for origin in line.catalog.origins(one["version"]):
                        row = {"dataset": one["version"], **asdict(origin)}
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
            console.print(f"every image: {listing}", highlight=False, soft_wrap=True)
    return {
        "model": name,
        "alias": alias,
        "version": version.version,
        "bundle": version.bundle,
        "made_from": made_from,
        "datasets": datasets,
        "list": str(listing) if listing else None,
    }


def quarantine(settings: Settings, console: Console, delivery: str | None, retry: bool) -> dict[str, Any]:
    """Lists what could not be decoded; `retry` has it looked at again by the next materialisation."""
    found = []
    with _open_line(settings, console) as line:
        names = [one.name for one in line.catalog.list_deliveries()]
        if delivery is not None and delivery not in names:
            raise BackdropError(f"there is no delivery '{delivery}'", f"deliveries are: {', '.join(names) or 'none'}")
        for name in names if delivery is None else [delivery]:
            rows = records(("reason", "detail", "uri", "image_id", "bytes", "key"), line.catalog.quarantine(name))
            show_table(console, rows, f"quarantine of {name}")
            count = line.catalog.retry_quarantine(name) if retry else 0
            if count:
                _forget_results(line, name)
                console.print(f"{count} will be looked at again: materialise filtered_shards[{name}]", markup=False)
            elif not retry and not rows:
                console.print(f"nothing in quarantine of {name}", highlight=False)
            found.append({"delivery": name, "images": rows, "retried": count})
    return {"deliveries": found}


def _forget_results(line: Line, delivery: str) -> None:
    """Without its committed result the asset is made again, although nothing that it depends on has changed."""
    from assets.stage import output_prefix

    folder = output_prefix("filtered_shards", "", delivery)
    for key in [key for key in line.store.list(folder) if key.endswith("/result.json")]:
        line.store.delete(key)
