"""`backdrop promote`, `approve`, `reject`, `rollback`, `sign` and `history`, and the same as Dagster jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import BackdropError, ServiceError, nearest
from infra.settings import Settings
from orchestration.screen import plain

if TYPE_CHECKING:
    from assets.line import Line
    from deploy.approvals import Claim
    from deploy.promotion import Look, Request
    from deploy.registry import Registry
    from deploy.signing import Signer
    from infra.catalog.ledger import Entry

ACTIONS = ("promote", "approve", "reject", "rollback")
ENGINE = "backdrop-engine"
ON_THE_COMMAND_LINE, IN_DAGSTER = "asked on the command line", "asked in Dagster"
"""The reasons of those who give none. A no has to have one."""
MOST_ROWS = 100_000
_NAME_LENGTH = 200  # of whom the ledger names without knowing them


@dataclass(frozen=True)
class Command:
    """What somebody asks for. `version`: empty means @challenger; `row`: of the ledger, for a rollback.

    `key`: where the private key lies that signs it; `token`: what was signed elsewhere.
    """

    action: str
    model: str = ENGINE
    version: str = ""
    row: int | None = None
    reason: str = ON_THE_COMMAND_LINE
    actor: str = ""
    key: str = ""
    token: str = ""
    run: str = ""


@dataclass(frozen=True)
class Answer:
    """What came of it: the ledger's row (None where nothing had to change), and what the ledger had not known."""

    said: str
    entry: Entry | None
    noticed: tuple[Entry, ...] = ()


def carry_out(line: Line, command: Command) -> Answer:
    """Does what is asked. Raises BackdropError with one clear message; the champion stays then."""
    from deploy import promotion
    from deploy.registry import Registry

    _check(command)
    catalog, registry = line.catalog, Registry(line.tracking.uri)
    seen = promotion.look(registry, catalog, command.model)
    row = promotion.rollback_row(catalog, command.model, command.row) if command.action == "rollback" else None
    request = _request(registry, line, replace(command, version=_version(registry, command, row)), seen)
    if command.action in ("approve", "reject"):
        judge = promotion.approve if command.action == "approve" else promotion.reject
        done = judge(registry, catalog, request)
        tell_dagster(line, done)
        return Answer(f"version {done.to_version} of {command.model} is {done.kind} by {done.who}", done, seen.noticed)
    if row is not None:
        outcome = promotion.rollback(registry, catalog, request, row)
    else:
        outcome = promotion.promote(registry, catalog, request)
    was = "was champion already" if outcome.entry is None else f"is champion; @previous is {outcome.previous or 'none'}"
    return Answer(f"version {outcome.champion} of {command.model} {was}", outcome.entry, outcome.noticed)


def token_of(line: Line, command: Command) -> tuple[str, str]:
    """A token for what is asked, and the public key that verifies it: for those who ask elsewhere."""
    from deploy.approvals import sign
    from deploy.promotion import look, rollback_row
    from deploy.registry import Registry

    if not _key(line.settings, command):
        raise BackdropError(
            "There is no key to sign with.",
            "Give --key file:/path or set BACKDROP_APPROVER_KEY; `openssl genpkey -algorithm ed25519` makes one.",
        )
    signer = _signer(line.settings, command)
    _check(command)
    registry = Registry(line.tracking.uri)
    look(registry, line.catalog, command.model)
    row = rollback_row(line.catalog, command.model, command.row) if command.action == "rollback" else None
    return sign(signer, _claim(registry, replace(command, version=_version(registry, command, row)))), signer.public


def tell_dagster(line: Line, judged: Entry) -> None:
    """A yes or no to the newest engine is its check's result now; the next engine's check starts anew."""
    import dagster as dg

    from assets.promotion import HUMAN_APPROVAL, judgement_metadata
    from assets.stage import latest_metadata
    from infra.jobs.spec import JobResult

    with dg.DagsterInstance.get() as instance:
        made = latest_metadata(instance, "tensorrt_engine")
        if made is None or not line.store.exists(str(made["result"])):
            return
        newest = JobResult.model_validate_json(line.store.get(str(made["result"])))
        if newest.data.get("engine") == judged.bundle:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=dg.AssetKey("tensorrt_engine"),
                    check_name=HUMAN_APPROVAL,
                    passed=judged.kind == "approved",
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata=judgement_metadata(judged),
                )
            )


def run_command(settings: Settings, console: Console, command: Command) -> dict[str, Any]:
    """The command line's way; what came of it, for programs."""
    from orchestration.status import remember_models

    _check(command)
    with _open_line(settings, console) as line:
        answer = carry_out(line, command)
        _warn(console, answer.noticed)
        row = f" (row {answer.entry.id} of the ledger)" if answer.entry else ""
        console.print(escape(f"{answer.said}{row}"), highlight=False, soft_wrap=True)
        remember_models(line)
        return {"action": command.action, "model": command.model, **plain(answer)}


def show_token(settings: Settings, console: Console, command: Command) -> dict[str, Any]:
    """`backdrop sign`."""
    with _open_line(settings, console) as line:
        token, public = token_of(line, command)
        console.print(f"public key {public}", highlight=False, soft_wrap=True)
        console.print(token, markup=False, highlight=False, soft_wrap=True)
        return {"public_key": public, "token": token}


def show_history(settings: Settings, console: Console, model: str, limit: int) -> dict[str, Any]:
    """The ledger, newest first, and where the aliases stand."""
    from deploy.reconciliation import reconcile
    from deploy.registry import Registry

    _check_model(model)
    with _open_line(settings, console) as line:
        registry = Registry(line.tracking.uri)
        noticed = reconcile(registry, line.catalog, model)
        _warn(console, noticed)
        rows = line.catalog.entries(model, limit=limit)
        table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
        for column in ("row", "when (UTC)", "what", "from", "to", "who", "why", "run"):
            table.add_column(column, overflow="fold")
        for one in rows:
            at = one.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if one.at else ""
            cells = (at, one.kind, one.from_version or "", one.to_version or "", one.who, one.reason, one.run[:8])
            table.add_row(str(one.id), *map(escape, cells))
        console.print(table if rows else f"the ledger has no row of {model}")
        aliases = registry.aliases(model)
        console.print("  ".join(f"@{alias} {version}" for alias, version in aliases.items()), highlight=False)
        return {"model": model, "aliases": aliases, "rows": plain(rows), "noticed": plain(noticed)}


def _check(command: Command) -> None:
    """What can be said before anything is opened."""
    if command.action not in ACTIONS:
        raise BackdropError(
            f"There is no action {command.action!r}.{nearest(command.action, ACTIONS)}", f"It is {', '.join(ACTIONS)}."
        )
    _check_model(command.model)
    if not command.reason.strip():
        raise BackdropError(f"The ledger has to say why: {command.action} has no reason.", "Give --reason.")


def _version(registry: Registry, command: Command, row: Entry | None) -> str:
    """The version that is meant: the one of the ledger's row, of the command, or @challenger."""
    from deploy.registry import CHALLENGER

    version = str(row.to_version) if row else command.version or registry.aliases(command.model).get(CHALLENGER, "")
    if not version:
        raise BackdropError(f"{command.model} has no @challenger.", "Name the version that is meant.")
    return version


def _claim(registry: Registry, command: Command) -> Claim:
    """What has to be signed. The version as the registry writes it: it takes 04 for 4."""
    from deploy.approvals import Claim, user

    found = registry.version(command.model, command.version)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Claim(command.action, command.model, found.version, found.bundle, command.actor or user(), at)


def _request(registry: Registry, line: Line, command: Command, seen: Look) -> Request:
    """What is asked, of a version that there is, by somebody who may: who may not is written down all the same."""
    from deploy.approvals import Actor, actor_of, approvers, sign, user
    from deploy.promotion import Request, refuse

    settings = line.settings
    known = approvers(settings.approvers)
    request = Request(
        command.model, command.version, Actor((command.actor or user())[:_NAME_LENGTH]), command.reason,
        run=command.run, seen=seen, approval=settings.approval == "required", approvers=known,
    )  # fmt: skip
    signer = _signer(settings, command) if _key(settings, command) and not command.token else None
    try:
        claim = _claim(registry, command)
        token = command.token if signer is None else sign(signer, claim)
        return replace(request, version=claim.version, actor=actor_of(token, claim, known))
    except ServiceError:
        raise
    except BackdropError as error:
        refuse(line.catalog, request, error)
        raise


def _check_model(model: str) -> None:
    from deploy.registry import REGISTERED_NAMES

    names = sorted(REGISTERED_NAMES.values())
    if model not in names:
        raise BackdropError(f"There is no registered model {model!r}.{nearest(model, names)}", f"{', '.join(names)}")


def _key(settings: Settings, command: Command) -> str:
    return command.key or settings.approver_key or ""


def _signer(settings: Settings, command: Command) -> Signer:
    from deploy.signing import open_signer

    setting = "--key" if command.key else "BACKDROP_APPROVER_KEY"
    return open_signer(_key(settings, command), settings.state, setting)


def _warn(console: Console, noticed: tuple[Entry, ...] | list[Entry]) -> None:
    """What the ledger had not known until now."""
    for entry in noticed:
        if entry.kind == "found":
            was = f"from {entry.from_version or 'none'} to {entry.to_version or 'none'}"
            console.print(f"[yellow]@{entry.alias} was moved outside the ledger: {was}[/yellow]", highlight=False)
        else:
            console.print(f"a promotion to version {entry.to_version} was killed: {entry.kind}", highlight=False)


@contextmanager
def _open_line(settings: Settings, console: Console) -> Iterator[Line]:
    from assets.line import Line
    from infra.services import NO_TELEMETRY
    from orchestration.services import services

    os.environ.update(NO_TELEMETRY)
    with services(settings, console) as environment:
        os.environ.update(environment)
        yield Line()
