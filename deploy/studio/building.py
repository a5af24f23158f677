"""The studio's parts, put together from the settings."""

from __future__ import annotations

from collections import Counter

from deploy.studio.desk import Desk
from deploy.studio.engines import Engines
from deploy.studio.limits import Limits
from deploy.studio.metrics import Metrics
from deploy.studio.opened import LineSource, Source
from deploy.studio.samples import Samples
from deploy.studio.shelf import Shelf
from deploy.studio.work import Room
from infra.object_store import ObjectStore, open_store
from infra.settings import Settings


def make_room(settings: Settings, fallbacks: Counter[str], limits: Limits | None = None) -> Room:
    """What serves the line's own engines."""
    from training.presets import load_preset

    store = open_store(settings.store_uri)
    guidance = load_preset(settings.preset, settings.config).evaluate.guidance
    return room_of(LineSource(settings, store, guidance, fallbacks=fallbacks), store, fallbacks, limits or Limits())


def room_of(source: Source, store: ObjectStore, fallbacks: Counter[str], limits: Limits) -> Room:
    """The same on any source of engines."""
    metrics = Metrics(lambda: float(sum(fallbacks.values())))

    def told(alias: str, version: str, opened: bool) -> None:
        metrics.swaps.labels(alias, "opened" if opened else "refused").inc()

    return Room(
        limits,
        metrics,
        Engines(source, idle_seconds=limits.idle_seconds, told=told),
        Desk(limits, metrics),
        Shelf(limits.shelf_bytes, limits.shelf_pictures, limits.shelf_seconds),
        Samples(store),
    )
