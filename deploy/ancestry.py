"""Which models a model was made from, as the bundles themselves say, and which ones a takedown reaches."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from infra.bundles import open_bundle
from infra.catalog import Model
from infra.object_store import ObjectMissing, ObjectStore

_ROLES = ("base", "teacher", "student", "autoencoder")


def parents(store: ObjectStore, bundle: str) -> dict[str, str]:
    """Role ("base", "teacher", "student", "autoencoder") → bundle id; empty for a bundle that is gone."""
    try:
        meta = open_bundle(store, bundle).meta
        found = {**meta, **meta.get("sources", {})}
        if isinstance(meta.get("latents"), str) and store.exists(meta["latents"]):
            found.setdefault("autoencoder", json.loads(store.get(meta["latents"]))["autoencoder"])
    except ObjectMissing:
        return {}
    return {role: str(found[role]) for role in _ROLES if found.get(role)}


def ancestors(store: ObjectStore, bundle: str) -> list[str]:
    """The bundle and everything it was made from, nearest first, each once."""
    chain, pending = [], [bundle]
    while pending:
        one = pending.pop(0)
        if one not in chain:
            chain.append(one)
            pending += parents(store, one).values()
    return chain


def reached(
    store: ObjectStore, models: Iterable[Model], versions: Collection[str], photographs: Collection[str] = ()
) -> list[Model]:
    """The models trained on one of these dataset versions or taught from one of these photographs (image ids), and
    those made from such a model."""
    every = list(models)
    trained = {
        model.id
        for model in every
        if model.dataset_version in versions or not _photographs(store, model.id).isdisjoint(photographs)
    }
    return [model for model in every if not trained.isdisjoint(ancestors(store, model.id))]


def _photographs(store: ObjectStore, bundle: str) -> set[str]:
    """Image ids of the photographs that a personalised model was taught from; of every other bundle there are none."""
    try:
        return set(open_bundle(store, bundle).meta.get("photographs", ()))
    except ObjectMissing:
        return set()
