"""Promotion: the champion's alias is moved under a lock, after an intent and before the row that says it is done.

    look ─► lock ─► reconcile ─► what moved since? ─► objections? ─► intent ─► @champion ─► @previous ─► tags ─► done

MLflow's aliases are last-write-wins and remember nothing, so the ledger in the catalog is the record. A process that is
killed between any two steps leaves an intent, which the next command closes by looking at the alias. Everything here is
used alike by the command line, the Dagster jobs and the asset `promotion`. What is refused leaves a row too.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from deploy.approvals import APPROVE, Actor, Claim, actor_of
from deploy.reconciliation import close, keep_previous, reconcile, reconcile_held, tag_judged, tag_promoted
from deploy.registry import CHALLENGER, CHAMPION, PREVIOUS, TAINT_TAG, ModelVersion, Registry
from infra.catalog.catalog import Catalog
from infra.catalog.ledger import (
    APPROVED,
    DONE,
    FOUND,
    INTENT,
    REFUSED,
    REJECTED,
    AliasHeld,
    Entry,
)
from infra.errors import BackdropError, ServiceError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What there was when somebody asked: the ledger's newest `row`, and what the ledger had not known until then."""

    row: int
    noticed: tuple[Entry, ...] = ()

    def knew(self, entry: Entry) -> bool:
        """Whether the asker could know of this row: not of what began after he had asked."""
        return entry.id <= self.row or (entry in self.noticed and (entry.intent or 0) <= self.row)


@dataclass(frozen=True)
class Request:
    """What is asked of a version, by whom and why.

    `against`: the champion that the evidence compares with ("none" where there was none); without it, the one that was
    champion when the request came in, which is `seen` (none: it comes in now). `approval`: whether a policy asks for a
    human's; `approvers`: name → public key of those whose yes counts, empty where everybody's does. `bundle`: what the
    version has to hold; without it, whatever it holds.
    """

    model: str
    version: str
    actor: Actor
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    against: str | None = None
    seen: Look | None = None
    approval: bool = False
    approvers: Mapping[str, str] = field(default_factory=dict)
    bundle: str | None = None

    def entry(self, kind: str, bundle: str, alias: str = CHAMPION, before: str | None = None) -> Entry:
        """A row of the ledger that says so."""
        evidence = {**self.evidence, **({"token": self.actor.token} if self.actor.token else {})}
        return Entry(
            kind, self.model, alias, before, self.version, bundle, self.actor.name, self.actor.verified, self.reason,
            evidence, self.run,
        )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Where the aliases stand. `entry`: the row that says so, None where the version was champion all along.

    `noticed`: what the ledger did not know before: an alias moved by hand, a promotion that was killed.
    """

    champion: str
    previous: str | None
    entry: Entry | None
    noticed: tuple[Entry, ...] = ()


def look(registry: Registry, catalog: Catalog, model: str) -> Look:
    """To be done first by whoever is asked for something: puts right what a killed promotion or a hand has left."""
    newest = catalog.entries(model, limit=1)  # before the lock is waited for: what is done meanwhile was not known
    return Look(newest[0].id if newest else 0, tuple(reconcile(registry, catalog, model)))


def promote(registry: Registry, catalog: Catalog, request: Request) -> Outcome:
    """Makes a version champion. Raises BackdropError, with a row in the ledger, when it may not be; the champion stays.

    Two at once: one waits for the other, then sees that the champion is no longer the one it meant to replace.
    """
    seen = request.seen or look(registry, catalog, request.model)
    try:
        with catalog.alias_lock(request.model, CHAMPION):
            return _promote_held(registry, catalog, request, seen)
    except AliasHeld as held:
        refuse(catalog, request, held)
        raise


def refuse(catalog: Catalog, request: Request, why: BackdropError, bundle: str = "", before: str | None = None) -> None:
    """Writes down that somebody asked, and why it was not done. Without the token, which has not been used by that."""
    asked = replace(request, actor=replace(request.actor, token=""), reason=why.what)
    catalog.add_entry(asked.entry(REFUSED, bundle, before=before))


def _promote_held(registry: Registry, catalog: Catalog, request: Request, seen: Look) -> Outcome:
    model = request.model
    noticed = (*seen.noticed, *reconcile_held(registry, catalog, model))
    meanwhile = [row for row in catalog.settled(model, CHAMPION) if not seen.knew(row)]
    aliases = registry.aliases(model)
    current = aliases.get(CHAMPION)
    try:
        target = registry.version(model, request.version)
    except ServiceError:
        raise
    except BackdropError as gone:
        refuse(catalog, request, gone, before=current)
        raise
    request = replace(request, version=target.version)  # as the registry writes it: it takes 04 for 4
    if current == target.version:
        if meanwhile:
            too_late = BackdropError(f"It was made champion by {meanwhile[0].who} meanwhile.")
            refuse(catalog, request, too_late, target.bundle, current)
        return Outcome(current, aliases.get(PREVIOUS), None, noticed)
    objection = _spent(catalog, request) or _raced(request, meanwhile, current) or _unfit(catalog, target, request)
    if objection is not None:
        refuse(catalog, request, objection, target.bundle, current)
        raise objection
    done = _move(registry, catalog, request, target, current)
    log.info("%s@%s is version %s now (it was %s)", model, CHAMPION, done.to_version, current or "not set")
    return Outcome(target.version, done.from_version, done, noticed)


def rollback(registry: Registry, catalog: Catalog, request: Request, to: Entry) -> Outcome:
    """Makes the version of a ledger's row champion again: nothing is rebuilt, and it was approved when it was new.

    Not where a hand had put the alias: nobody approved of that. The version has to hold what it held in that row.
    """
    evidence = {**request.evidence, "rollback_to": to.id}
    back = replace(request, version=str(to.to_version), evidence=evidence, bundle=to.bundle)
    return promote(registry, catalog, replace(back, approval=request.approval and to.kind == FOUND))


def rollback_row(catalog: Catalog, model: str, row: int | None = None) -> Entry:
    """The row that a rollback goes back to: the one of this number, or the last other champion before this one's row.

    A rollback that follows a rollback goes on back from there, and never forth to what was rolled back. What a hand
    has put there counts only as the first of all rows: that was the champion before there was a ledger.
    """
    rows = catalog.settled(model, CHAMPION)
    by_id = {entry.id: entry for entry in rows}
    if row is not None:
        found = by_id.get(row)
        if found is None or found.to_version is None:
            raise BackdropError(
                f"Row {row} of the ledger is none that made a version of {model} champion.",
                f"Rows that are: {', '.join(str(one.id) for one in rows if one.to_version) or 'none'}.",
            )
        return found
    if rows:
        now = base = rows[0]
        while (earlier := by_id.get(base.evidence.get("rollback_to", -1))) is not None:
            base = earlier
        for one in rows:
            made = one.kind == DONE or one is rows[-1]
            if one.id < base.id and made and one.to_version not in (None, now.to_version):
                return one
    raise BackdropError(
        f"{model} has had no other champion to go back to.", f"`backdrop history --model {model}` lists its champions."
    )


def nominate(registry: Registry, catalog: Catalog, model: str, version: str) -> list[Entry]:
    """Makes a version the challenger, unless it was rejected; what the ledger had not known."""
    with catalog.alias_lock(model, CHAMPION):  # a no must not fall between the look and the alias
        noticed = reconcile_held(registry, catalog, model)
        judged = catalog.judgement(model, registry.version(model, version).bundle)
        if judged is None or judged.kind != REJECTED:
            registry.set_alias(model, CHALLENGER, version)
    return noticed


def reject(registry: Registry, catalog: Catalog, request: Request) -> Entry:
    """Says no to a version: it is challenger no longer, and is not promoted unless it is approved later."""
    return _judge(registry, catalog, request, REJECTED)


def approve(registry: Registry, catalog: Catalog, request: Request) -> Entry:
    """A human's yes to the bundle that a version holds: another checkpoint is another bundle, and needs its own."""
    return _judge(registry, catalog, request, APPROVED)


def history(registry: Registry, catalog: Catalog, model: str, limit: int | None = None) -> list[Entry]:
    """The model's rows of the ledger, newest first, after what it did not know was written down."""
    reconcile(registry, catalog, model)
    return catalog.entries(model, limit=limit)


def approved(judged: Entry | None, approvers: Mapping[str, str]) -> bool:
    """Whether a bundle's newest judgement is a yes of somebody who may say it. A row alone proves nothing: its token is
    verified again, so that a name that was struck off the approvers, or a row from elsewhere, does not count."""
    if judged is None or judged.kind != APPROVED:
        return False
    if not approvers:
        return True
    claim = Claim(APPROVE, judged.model, str(judged.to_version), judged.bundle, judged.actor, "")
    try:
        return actor_of(str(judged.evidence.get("token", "")), claim, approvers, judged.at).name == judged.actor
    except BackdropError as error:
        log.warning("row %s of the ledger is no approval: %s", judged.id, error.what)
        return False


def _raced(request: Request, meanwhile: list[Entry], current: str | None) -> BackdropError | None:
    """Compare and set: the champion has to be the one that the request means to replace."""
    where, remedy = f"{request.model}@{CHAMPION}", "Judge again against the champion of now."
    if request.against is not None:
        if request.against == (current or "none"):
            return None
        return BackdropError(
            f"{where} is version {current or 'none'}, the evidence compares with {request.against}.", remedy
        )
    if meanwhile:
        other = meanwhile[0]
        who = "outside the ledger" if other.kind == FOUND else f"by {other.who}"
        return BackdropError(f"{where} was moved to version {other.to_version or 'none'} {who} meanwhile.", remedy)
    return None


def _spent(catalog: Catalog, request: Request) -> BackdropError | None:
    """A token is good once: whoever reads it on a page must not be able to use it again."""
    token = request.actor.token
    if not token or all(row.evidence.get("token") != token for row in catalog.entries(request.model)):
        return None
    return BackdropError(f"The token of {request.actor.name} was used already.", "Sign anew: `backdrop sign`.")


def _unfit(catalog: Catalog, target: ModelVersion, request: Request) -> BackdropError | None:
    """What speaks against this version whoever is champion."""
    name = f"Version {target.version} of {target.name}"
    if request.bundle is not None and request.bundle != target.bundle:
        return BackdropError(
            f"{name} holds bundle {target.bundle[:12]}…, the ledger's row says {request.bundle[:12] or 'none'}….",
            "Somebody has registered another model under this number: promote the version that holds what is meant.",
        )
    if tainted := target.tags.get(TAINT_TAG):
        return BackdropError(f"{name} is tainted ({tainted}).", "Promote one that was trained without those images.")
    judged = catalog.judgement(target.name, target.bundle)
    if judged is not None and judged.kind == REJECTED:
        return BackdropError(
            f"{name} was rejected by {judged.who}: {judged.reason}",
            f"`backdrop approve {target.version}` overrules it, or promote another.",
        )
    if request.approval and not approved(judged, request.approvers):
        return BackdropError(f"{name} waits for approval.", f"`backdrop approve {target.version}`, then promote it.")
    return None


def _move(registry: Registry, catalog: Catalog, request: Request, target: ModelVersion, current: str | None) -> Entry:
    """From the intent to the row that says it is done; under the lock."""
    model = request.model
    intent = catalog.add_entry(request.entry(INTENT, target.bundle, before=current))
    try:
        _set_aliases(registry, intent)
    except BackdropError:
        with contextlib.suppress(BackdropError):  # else the next command does it
            reconcile_held(registry, catalog, model)
        raise
    if registry.aliases(model).get(CHAMPION) != target.version:
        reconcile_held(registry, catalog, model)  # closes the intent, and writes down who came between
        raise BackdropError(
            f"{model}@{CHAMPION} was moved by hand while it was promoted.", "Look at `backdrop history`, then decide."
        )
    return close(catalog, intent, DONE)


def _set_aliases(registry: Registry, intent: Entry) -> None:
    """Unless a hand was quicker."""
    if registry.aliases(intent.model).get(CHAMPION) == intent.from_version:
        registry.set_alias(intent.model, CHAMPION, str(intent.to_version))
        keep_previous(registry, intent.model, intent.from_version)
        tag_promoted(registry, intent)


def _judge(registry: Registry, catalog: Catalog, request: Request, kind: str) -> Entry:
    try:
        with catalog.alias_lock(request.model, CHAMPION):  # a promotion under way must not overtake a no
            return _judge_held(registry, catalog, request, kind)
    except BackdropError as error:
        if isinstance(error, AliasHeld) or not isinstance(error, ServiceError):
            refuse(catalog, request, error)
        raise


def _judge_held(registry: Registry, catalog: Catalog, request: Request, kind: str) -> Entry:
    reconcile_held(registry, catalog, request.model)
    target = registry.version(request.model, request.version)
    request = replace(request, version=target.version)
    if (spent := _spent(catalog, request)) is not None:
        raise spent
    aliases = registry.aliases(request.model)
    if kind == REJECTED and aliases.get(CHAMPION) == target.version:
        raise BackdropError(
            f"Version {target.version} is the champion of {request.model}.", "`backdrop rollback` replaces it first."
        )
    written = catalog.add_entry(request.entry(kind, target.bundle, CHALLENGER))
    tag_judged(registry, target.version, written)
    if kind == REJECTED and aliases.get(CHALLENGER) == target.version:  # last: what is left of it says what to repair
        registry.drop_alias(request.model, CHALLENGER)
    return written
