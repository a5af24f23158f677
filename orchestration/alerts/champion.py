"""What the promotion ledger and the registry say: refusals, and a champion that has seen what was taken down since."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from infra.catalog.rows import Alert
from infra.files import sha256_bytes
from orchestration.alerts.causes import LOOK_BACK, OVERLAP, Kind, Pages, Seen, cause, holding

if TYPE_CHECKING:
    from infra.catalog import Catalog
    from infra.catalog.ledger import Entry

REFUSED_SCOPE, TAINTED_SCOPE = "gate-refused:ledger:", "tainted:"


def refusals(catalog: Catalog, models: Sequence[str], pages: Pages, memory: Mapping[str, Any], now: datetime) -> Seen:
    """What was asked of the registry and not done, since a day before the first look."""
    from deploy.registry import CHALLENGER, CHAMPION

    first = datetime.fromisoformat(memory["first"]) if "first" in memory else now - LOOK_BACK
    seen = datetime.fromisoformat(memory["seen"]) if "seen" in memory else first
    causes: list[Alert] = []
    current: set[str] = set()
    for model, alias in itertools.product(models, (CHALLENGER, CHAMPION)):
        # What was asked before the move that the last look has seen is written down, and over.
        found, holds = refused(catalog.entries_since(model, alias, seen - OVERLAP), pages, first)
        causes += found
        current |= holds
    # The moves of an alias are counted in a key, so one that has ended does not come again.
    known = catalog.written_causes([one.cause for one in causes])
    new = tuple(one for one in causes if one.cause not in known)
    return Seen(REFUSED_SCOPE, new, frozenset(current), {"first": first.isoformat(), "seen": now.isoformat()})


def refused(rows: Sequence[Entry], pages: Pages, first: datetime) -> tuple[list[Alert], set[str]]:
    """One cause per version and reason between two moves of an alias; and the keys of those after the last move.

    `rows`: of a model's ledger, newest first. The same request night after night is one cause.
    """
    from infra.catalog.ledger import REFUSED, SETTLED

    settled = dict.fromkeys((row.alias for row in rows), 0)
    causes: dict[str, Alert] = {}
    last: dict[str, int] = {}
    for row in reversed(rows):
        if row.kind in SETTLED:
            settled[row.alias] = row.id
        elif row.kind == REFUSED and row.at is not None:
            why = sha256_bytes(row.reason.encode())[:12]
            key = f"{REFUSED_SCOPE}{row.model}:{row.alias}:{row.to_version}:{why}:{settled[row.alias]}"
            title = f"version {row.to_version} of {row.model} was refused as @{row.alias}"
            links = {**pages.model(row.model, str(row.to_version)), **pages.run(row.run)}
            detail = f"{row.reason}\nasked by {row.who}, row {row.id} of the ledger"
            if row.at >= first and key not in causes:
                causes[key] = cause(Kind.GATE_REFUSED, key, title, detail, row.at, links)
                last[key] = settled[row.alias]
    current = {key for key, one in causes.items() if last[key] == settled[_alias(one)]}
    return list(causes.values()), current


def _alias(one: Alert) -> str:
    return one.cause.split(":")[3]


def tainted(catalog: Catalog, uri: str, models: Sequence[str], pages: Pages, now: datetime) -> Seen:
    """Each takedown that a champion of now is tainted by.

    Its tag says so once the takedown is carried out. Until then its dataset version does, which is withdrawn from the
    order's first second on, though perhaps for a picture that was held out and not learned from.
    """
    from deploy.registry import CHAMPION, TAINT_TAG, Registry

    registry, causes = Registry(uri), []
    unfinished = {order.why for order in catalog.unfinished_takedowns()}
    versions = {model.id: model.dataset_version for model in catalog.models()} if unfinished else {}
    for name in models:
        version = registry.aliases(name).get(CHAMPION)
        if version is None:
            continue
        found = registry.version(name, version, f"{name}@{CHAMPION}")
        reasons = [part for part in found.tags.get(TAINT_TAG, "").split("; ") if part]
        dataset = versions.get(found.bundle)
        if dataset and (withdrawn := catalog.withdrawn(dataset)) in unfinished:
            reasons.append(str(withdrawn))
        causes += taints(name, version, reasons, pages, now)
    return holding(TAINTED_SCOPE, causes)


def taints(name: str, version: str, reasons: Sequence[str], pages: Pages, now: datetime) -> list[Alert]:
    """One cause per takedown in `reasons` ("takedown 3: …"); a reason may itself hold what divides them."""
    orders: dict[str, str] = {}
    for reason in reasons:
        number = re.match(r"takedown (\d+)\b", reason)
        if number or not orders:
            orders.setdefault(number[1] if number else "0", reason)
    title = f"the champion of {name}, version {version}, is tainted by a takedown"
    links = pages.model(name, version)
    return [
        cause(Kind.TAINTED, f"{TAINTED_SCOPE}{name}:{version}:{order}", title, reason, now, links)
        for order, reason in orders.items()
    ]
