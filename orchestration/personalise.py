"""`backdrop personalise`: a folder of photographs and a class word become `personalized_model[subject]`."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.errors import BackdropError
from infra.settings import Settings
from infra.uris import list_objects, read_uri
from orchestration.progress import LineProgress
from training.personalise.subject import MOST, check_names

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def teach(
    settings: Settings, console: Console, subject: str, images: str, word: str, method: str | None
) -> dict[str, Any]:
    """Record the subject, open its partition and materialise it; what came of it. Raises BackdropError with one clear
    message."""
    from infra.services import NO_TELEMETRY
    from orchestration.remembered import as_last_run
    from orchestration.run import only_run
    from orchestration.services import services

    check_names(subject, word)
    pictures = photographs_in(images)
    os.environ.update(NO_TELEMETRY)
    with services(settings, console) as environment:
        os.environ.update({**environment, **as_last_run(settings)})
        settings = Settings.load()
        with only_run(settings):
            return _materialise(console, subject, word, pictures, method)


def _materialise(
    console: Console, subject: str, word: str, pictures: dict[str, bytes], method: str | None
) -> dict[str, Any]:
    import dagster as dg

    from assets.line import Line
    from assets.personalized_model import subjects
    from assets.training_job import chosen_section
    from orchestration.automation import personalise_job
    from orchestration.definitions import defs
    from orchestration.run import execute
    from training.personalise.subject import record_subject

    overrides = {"method": method} if method else {}
    with LineProgress(console) as progress, dg.DagsterInstance.get() as instance:
        line = Line(listener=progress)
        chosen_section(line.preset, "personalise", overrides)  # refuses a method that is none before anything is kept
        record = record_subject(line.store, subject, word, pictures, line.catalog.taken_down)
        instance.add_dynamic_partitions(str(subjects.name), [subject])
        asset = {"personalized_model": overrides}
        done = execute(defs, personalise_job.name, instance, line, partition=subject, overrides=asset)
    metadata = done.get_asset_materialization_events()[0].materialization.metadata
    seconds = metadata["seconds"].value
    console.print(
        f"{subject}: {metadata['method'].value} from {len(record.photographs)} photographs, trained in {seconds:.0f} s"
    )
    console.print(f'captions call it "{metadata["phrase"].value}"', highlight=False)
    console.print("look     `make ui`, asset personalized_model", highlight=False)
    return {
        "subject": subject,
        "method": metadata["method"].value,
        "phrase": metadata["phrase"].value,
        "photographs": len(record.photographs),
        "seconds": seconds,
    }


def photographs_in(uri: str) -> dict[str, bytes]:
    """File name → bytes of the pictures in a folder or below a prefix. Raises BackdropError when there is none, or more
    than a subject may have: none is read then, for a prefix may hold a whole catalogue."""
    place = uri if "://" in uri else str(Path(uri).expanduser())
    pictures = (one for one in list_objects(place) if one.name.lower().endswith(SUFFIXES))
    found = list(islice(pictures, MOST + 1))
    if not found:
        raise BackdropError(f"there is no picture in {uri}", "give a folder of photographs of the subject")
    if len(found) > MOST:
        raise BackdropError(f"there are more than {MOST} pictures in {uri}", f"give 1 to {MOST}; five are enough")
    return {one.name: read_uri(one.uri) for one in found}
