"""`backdrop trace` and `backdrop quarantine`: the catalog's answers as tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import BackdropError
from infra.files import sha256_file
from infra.settings import Settings

if TYPE_CHECKING:
    from assets.line import Line


@contextmanager
def _open_line(settings: Settings, console: Console) -> Iterator[Line]:
    from assets.line import Line
    from orchestration.services import services

    with services(settings, console) as environment:
        os.environ.update(environment)
        yield Line()


def trace_image(settings: Settings, console: Console, target: str) -> None:
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
        taught = [subject for subject in every_subject(line.store) if image_id in subject.image_ids]
        order = line.catalog.takedown_of(image_id)
        if not (found.known or found.pictures or taught or order):
            raise BackdropError(f"the catalog has not met the image {image_id}", "look in the right state folder?")
        console.print(f"image {image_id}", highlight=False)
        if order is not None:
            done = "carried out" if order.finished_at else "not finished"
            console.print(f"[bold red]taken down[/bold red] {order.at:%Y-%m-%d}: {escape(order.why)} ({done})")
        if found.facts:
            kind, width, height, size = found.facts
            console.print(f"{kind or 'no picture'}, {width} × {height}, {size:,} bytes", highlight=False)
        _table(console, "where from", ("delivery", "uri", "source", "licence", "split"), found.sightings)
        judged = ("delivery", "filter", "filter_version", "decision", "score", "reason")
        _table(console, "verdicts", judged, found.verdicts)
        _table(console, "quarantine", ("delivery", "reason", "detail", "key"), found.quarantine)
        _table(console, "copies", ("delivery", "image_id", "of", "distance", "similarity"), found.copies)
        packed = ("delivery", "id", "split", "bucket", "state", "shard", "place")
        _table(console, "slices", packed, found.slices)
        _table(console, "dataset versions", ("version", "samples", "withdrawn"), found.versions)
        models = {model.id: model for model in reached(line.store, line.catalog.models(), (), [image_id])}
        models |= {model.id: model for model in found.models}
        _table(console, "models", ("asset", "id", "dataset_version", "mlflow_run"), list(models.values()))
        if taught:
            console.print(f"a photograph of {', '.join(subject.name for subject in taught)}", highlight=False)
        if found.pictures:
            console.print("pictures that show it")
            for key in found.pictures:
                console.print(f"  {line.store.uri}/{key}", highlight=False, soft_wrap=True)


def trace_model(settings: Settings, console: Console, name_and_alias: str, listing: Path | None) -> None:
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
        _table(console, "made from", ("asset", "id", "dataset_version", "mlflow_run"), chain)
        datasets = list(dict.fromkeys(model.dataset_version for model in chain))
        for dataset in datasets:
            reason = line.catalog.withdrawn(dataset)
            title = f"dataset version {dataset}" + (f" (withdrawn: {reason})" if reason else "")
            columns = ("delivery", "kind", "split", "licence", "source", "images")
            _table(console, title, columns, line.catalog.origin_counts(dataset))
        if listing is not None:
            with listing.open("w") as file:
                for dataset in datasets:
                    for origin in line.catalog.origins(dataset):
                        file.write(json.dumps({"dataset": dataset, **asdict(origin)}, ensure_ascii=False) + "\n")
            console.print(f"every image: {listing}", highlight=False, soft_wrap=True)


def quarantine(settings: Settings, console: Console, delivery: str | None, retry: bool) -> None:
    """Lists what could not be decoded; `retry` has it looked at again by the next materialisation."""
    with _open_line(settings, console) as line:
        names = [one.name for one in line.catalog.list_deliveries()]
        if delivery is not None and delivery not in names:
            raise BackdropError(f"there is no delivery '{delivery}'", f"deliveries are: {', '.join(names) or 'none'}")
        for name in names if delivery is None else [delivery]:
            rows = line.catalog.quarantine(name)
            _table(console, f"quarantine of {name}", ("reason", "detail", "uri", "image_id", "bytes", "key"), rows)
            if retry:
                count = line.catalog.retry_quarantine(name)
                if count:
                    _forget_results(line, name)
                    console.print(f"{count} will be looked at again: materialise filtered_shards[{name}]", markup=False)
            elif not rows:
                console.print(f"nothing in quarantine of {name}", highlight=False)


def _forget_results(line: Line, delivery: str) -> None:
    """Without its committed result the asset is made again, although nothing that it depends on has changed."""
    from assets.stage import output_prefix

    folder = output_prefix("filtered_shards", "", delivery)
    for key in [key for key in line.store.list(folder) if key.endswith("/result.json")]:
        line.store.delete(key)


def _table(console: Console, title: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    """Rows with attributes of the columns' names; nothing where there is none."""
    if not rows:
        return
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(getattr(row, column)) for column in columns))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))
