"""Ledger and alias, made to agree: what a killed promotion left, and what a hand has moved in MLflow."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

from deploy.registry import CHALLENGER, CHAMPION, PREVIOUS, TAG_LENGTH, Registry
from infra.catalog.catalog import Catalog
from infra.catalog.ledger import ABANDONED, DONE, FOUND, REJECTED, AliasHeld, Entry
from infra.errors import BackdropError, ServiceError

log = logging.getLogger(__name__)

NOBODY = "unknown"
"""The actor of what happened outside the ledger."""

_READ_SECONDS = 2.0  # that a command which only reads waits for a promotion under way


def reconcile(registry: Registry, catalog: Catalog, model: str) -> list[Entry]:
    """Makes ledger and alias agree; the rows that this took. A promotion under way does so itself."""
    try:
        with catalog.alias_lock(model, CHAMPION, _READ_SECONDS):
            return reconcile_held(registry, catalog, model)
    except AliasHeld:
        log.info("a promotion of %s is under way", model)
        return []


def reconcile_held(registry: Registry, catalog: Catalog, model: str) -> list[Entry]:
    """Under the lock: closes what a killed process left, and writes down where somebody else put the alias."""
    written = []
    aliases = registry.aliases(model)
    current = aliases.get(CHAMPION)
    for intent in catalog.open_intents(model, CHAMPION):
        moved = current == intent.to_version
        if moved:
            tag_promoted(registry, intent)
        written.append(close(catalog, intent, DONE if moved else ABANDONED))
        log.warning("a promotion of %s to version %s was killed: %s", model, intent.to_version, written[-1].kind)
    settled = catalog.settled(model, CHAMPION)
    known = settled[0].to_version if settled else None
    if current != known:
        found = Entry(
            FOUND, model, CHAMPION, known, current, _bundle(registry, model, current), NOBODY,
            reason="the alias was moved outside the ledger" if settled else "the alias was set before the ledger began",
        )  # fmt: skip
        settled.insert(0, catalog.add_entry(found))
        written.append(settled[0])
        log.warning("%s@%s was moved by hand: from %s to %s", model, CHAMPION, known or "none", current or "none")
    if settled and aliases.get(PREVIOUS) != settled[0].from_version:
        keep_previous(registry, model, settled[0].from_version)
    _drop_rejected(registry, catalog, model, aliases.get(CHALLENGER))
    return written


def close(catalog: Catalog, intent: Entry, kind: str) -> Entry:
    """The row that says what came of an intent; the database takes one for each."""
    return catalog.add_entry(replace(intent, kind=kind, intent=intent.id))


def keep_previous(registry: Registry, model: str, version: str | None) -> None:
    """@previous is the champion before this one; unset where there was none, or it has been deleted since."""
    if version is not None and _bundle(registry, model, version):
        registry.set_alias(model, PREVIOUS, version)
    elif PREVIOUS in registry.aliases(model):
        registry.drop_alias(model, PREVIOUS)


def tag_promoted(registry: Registry, intent: Entry) -> None:
    """For those who only look at MLflow's page; the ledger is the record."""
    at = (intent.at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    tags = {"backdrop.promoted_at": at, "backdrop.promoted_by": intent.who, "backdrop.ledger_row": str(intent.id)}
    registry.tag(intent.model, str(intent.to_version), tags)


def tag_judged(registry: Registry, version: str, judged: Entry) -> None:
    """The newest yes or no to a version, for MLflow's page too."""
    said = f"{judged.kind} by {judged.who}: {judged.reason}"
    registry.tag(judged.model, version, {"backdrop.judged": said[:TAG_LENGTH]})


def _drop_rejected(registry: Registry, catalog: Catalog, model: str, challenger: str | None) -> None:
    """A no that was killed after its row has left @challenger where it was."""
    bundle = _bundle(registry, model, challenger)
    judged = catalog.judgement(model, bundle) if bundle else None
    if challenger is not None and judged is not None and judged.kind == REJECTED:
        tag_judged(registry, challenger, judged)
        registry.drop_alias(model, CHALLENGER)


def _bundle(registry: Registry, model: str, version: str | None) -> str:
    """What a version holds; empty where it is gone."""
    try:
        return registry.version(model, version).bundle if version is not None else ""
    except ServiceError:  # what does not answer is not gone
        raise
    except BackdropError:
        return ""
