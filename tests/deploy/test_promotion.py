"""Promotion on a real PostgreSQL and a real MLflow server: moves, refusals, rollbacks, hands."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import promotion
from deploy.approvals import Actor
from deploy.promotion import promote, rollback, rollback_row
from deploy.reconciliation import reconcile
from deploy.registry import ModelVersion, Registry, ShortCut
from infra.catalog import Catalog
from infra.catalog.ledger import ABANDONED, DONE, FOUND, INTENT, REFUSED
from infra.errors import BackdropError, ServiceError
from tests.deploy.promoting import ANNA, MODEL, agree, request

pytestmark = pytest.mark.integration

# ── moving ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_promotion_moves_the_alias_and_says_so(registry: Registry, catalog: Catalog) -> None:
    assert promote(registry, catalog, request("1")).previous is None
    outcome = promote(registry, catalog, request("2", "wins", evidence={"p": 0.01}, run="run-7"))
    assert (outcome.champion, outcome.previous, outcome.noticed) == ("2", "1", ())
    assert registry.aliases(MODEL) == {"champion": "2", "previous": "1"}
    done, intent = catalog.entries(MODEL, limit=2)
    assert done == outcome.entry
    assert (done.kind, intent.kind, done.intent) == (DONE, INTENT, intent.id)
    assert (done.from_version, done.to_version, done.bundle) == ("1", "2", f"{2:064x}")
    assert (done.who, done.reason, done.evidence, done.run) == ("unverified actor anna", "wins", {"p": 0.01}, "run-7")
    tags = registry.version(MODEL, "2").tags
    assert tags["backdrop.promoted_by"] == "unverified actor anna"
    assert tags["backdrop.ledger_row"] == str(intent.id)
    agree(registry, catalog)


def test_promoting_the_champion_again_changes_nothing(registry: Registry, catalog: Catalog) -> None:
    promote(registry, catalog, request("1"))
    rows = catalog.entries(MODEL)
    assert promote(registry, catalog, request("1")).entry is None
    assert catalog.entries(MODEL) == rows


def test_what_may_not_be_champion_is_refused_and_recorded(registry: Registry, catalog: Catalog) -> None:
    promote(registry, catalog, request("1"))
    with pytest.raises(BackdropError, match="There is no version 99 of backdrop-engine"):
        promote(registry, catalog, request("99"))
    promotion.reject(registry, catalog, request("2", "it paints cups twice"))
    with pytest.raises(BackdropError, match="rejected by unverified actor anna: it paints cups twice"):
        promote(registry, catalog, request("2"))
    with pytest.raises(BackdropError, match="Version 3 of backdrop-engine waits for approval"):
        promote(registry, catalog, request("3", approval=True))
    with pytest.raises(BackdropError, match=r"champion is version 1, the evidence compares with 4"):
        promote(registry, catalog, request("3", against="4"))
    refusals = [entry for entry in catalog.entries(MODEL) if entry.kind == REFUSED]
    assert [entry.to_version for entry in refusals] == ["3", "3", "2", "99"]
    assert registry.aliases(MODEL)["champion"] == "1"
    promotion.approve(registry, catalog, request("2", "the cups are fine"))
    promotion.approve(registry, catalog, request("3"))
    assert promote(registry, catalog, request("2")).champion == "2"
    assert promote(registry, catalog, request("3", approval=True, against="2")).champion == "3"
    with pytest.raises(BackdropError, match="Version 3 is the champion"):
        promotion.reject(registry, catalog, request("3"))
    assert catalog.entries(MODEL, limit=1)[0].reason == "Version 3 is the champion of backdrop-engine."


def test_a_rejected_challenger_is_challenger_no_longer(registry: Registry, catalog: Catalog) -> None:
    registry.set_alias(MODEL, "challenger", "2")
    promotion.reject(registry, catalog, request("3"))
    assert registry.aliases(MODEL) == {"challenger": "2"}
    promotion.reject(registry, catalog, request("2", "no"))
    assert registry.aliases(MODEL) == {}
    assert registry.version(MODEL, "2").tags["backdrop.judged"] == "rejected by unverified actor anna: no"


def test_a_challenger_is_nominated_unless_it_was_rejected(registry: Registry, catalog: Catalog) -> None:
    promotion.reject(registry, catalog, request("2", "no"))
    registry.set_alias(MODEL, "champion", "1")
    (found,) = promotion.nominate(registry, catalog, MODEL, "2")
    assert (found.kind, registry.aliases(MODEL)) == (FOUND, {"champion": "1"})
    assert promotion.nominate(registry, catalog, MODEL, "3") == []
    assert registry.aliases(MODEL)["challenger"] == "3"


def test_what_happens_to_a_version_while_the_lock_is_waited_for_counts(registry: Registry, catalog: Catalog) -> None:
    tainted, deleted = registry.register(MODEL, "a1" * 32), registry.register(MODEL, "b2" * 32)

    class Waited(Catalog):
        """Somebody takes a picture down, or deletes a version, before we have the lock."""

        @contextlib.contextmanager
        def alias_lock(self, model: str, alias: str, seconds: float = 30) -> Iterator[None]:
            with super().alias_lock(model, alias, seconds):
                if tainted not in seen:
                    seen.append(tainted)
                    registry.taint(MODEL, "a1" * 32, "takedown 7: asked to")
                    registry._client().delete_model_version(MODEL, deleted)
                yield

    for version, message in ((tainted, r"is tainted \(takedown 7: asked to\)"), (deleted, "There is no version")):
        seen: list[str] = [] if version == tainted else [tainted]
        with pytest.raises(BackdropError, match=message):
            promote(registry, Waited(catalog.url), request(version, seen=promotion.Look(0)))
    assert catalog.open_intents(MODEL, "champion") == []
    assert [entry.to_version for entry in catalog.entries(MODEL)] == [deleted, tainted]


def test_a_version_that_is_deleted_after_the_intent_leaves_none_open(registry: Registry, catalog: Catalog) -> None:
    version = registry.register(MODEL, "c3" * 32)

    class Deleting(Registry):
        """Somebody deletes the version right before we move the alias to it."""

        def set_alias(self, name: str, alias: str, version: str) -> None:
            self._client().delete_model_version(name, version)
            super().set_alias(name, alias, version)

    with pytest.raises(BackdropError, match=f"There is no version {version}"):
        promote(Deleting(registry.uri), catalog, request(version))
    assert [entry.kind for entry in catalog.entries(MODEL)] == [ABANDONED, INTENT]
    agree(registry, catalog)


def test_a_registry_that_does_not_answer_is_not_one_without_versions(registry: Registry, catalog: Catalog) -> None:
    promote(registry, catalog, request("1"))
    promote(registry, catalog, request("2"))
    registry.drop_alias(MODEL, "previous")

    class Away(Registry):
        """Goes away after the aliases were read."""

        def version(self, name: str, version: str, who: str = "") -> ModelVersion:
            return Registry("http://127.0.0.1:9").version(name, version, who)

    with pytest.raises(ServiceError, match="MLflow did not answer as it should"):
        reconcile(Away(registry.uri), catalog, MODEL)
    reconcile(registry, catalog, MODEL)
    assert registry.aliases(MODEL) == {"champion": "2", "previous": "1"}


def test_the_short_cut_says_what_mlflows_own_client_says(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> list[object]:
        registry.set_alias(MODEL, "shown", "2")
        registry.tag(MODEL, "2", {"a tag": "a + b = 'c'"})
        answers: list[object] = [registry.aliases(MODEL), registry.aliases("nobody"), registry.version(MODEL, "02")]
        registry.drop_alias(MODEL, "shown")
        registry.drop_alias(MODEL, "shown")
        for ask in (
            lambda: registry.version(MODEL, "99"),
            lambda: registry.version(MODEL, "99999999999"),
            lambda: registry.version(MODEL, "latest"),
            lambda: registry.set_alias(MODEL, "shown", "99"),
            lambda: registry.tag(MODEL, "99", {"a tag": "b"}),
        ):
            with pytest.raises(BackdropError, match="There is no version") as refused:
                ask()
            answers.append(str(refused.value))
        return answers

    short = said()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")  # who has a login gets MLflow's own client
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setattr(ShortCut, "_send", None)
    assert said() == short


def test_a_tainted_version_is_refused(registry: Registry, catalog: Catalog) -> None:
    bundle = "ab" * 32
    version = registry.register(MODEL, bundle)
    registry.taint(MODEL, bundle, "takedown 1: asked to")
    with pytest.raises(BackdropError, match=r"is tainted \(takedown 1: asked to\)"):
        promote(registry, catalog, request(version))


# ── back ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rollbacks_go_back_and_never_forth(registry: Registry, catalog: Catalog) -> None:
    with pytest.raises(BackdropError, match="no other champion"):
        rollback_row(catalog, MODEL)
    for version in ("1", "2", "3"):
        promote(registry, catalog, request(version))
    began = time.monotonic()
    row = rollback_row(catalog, MODEL)
    outcome = rollback(registry, catalog, request("", "3 is broken", approval=True), row)
    print(f"rolled back in {time.monotonic() - began:.2f} s (promise: 2 s)")
    assert (outcome.champion, outcome.previous) == ("2", "3")
    assert outcome.entry is not None
    assert outcome.entry.evidence == {"rollback_to": row.id}
    assert rollback(registry, catalog, request("", "2 too"), rollback_row(catalog, MODEL)).champion == "1"
    with pytest.raises(BackdropError, match="no other champion"):
        rollback_row(catalog, MODEL)
    third = next(one for one in catalog.settled(MODEL, "champion") if one.to_version == "3")
    assert rollback(registry, catalog, request(""), rollback_row(catalog, MODEL, third.id)).champion == "3"
    with pytest.raises(BackdropError, match=r"Row 999 of the ledger is none.*") as caught:
        rollback_row(catalog, MODEL, 999)
    assert str(third.id) in caught.value.remedy
    agree(registry, catalog)


def test_the_champion_from_before_the_ledger_can_be_gone_back_to(registry: Registry, catalog: Catalog) -> None:
    registry.set_alias(MODEL, "champion", "4")
    promote(registry, catalog, request("1"))
    registry.set_alias(MODEL, "champion", "3")  # a hand, later: nobody has approved of that
    promote(registry, catalog, request("2"))
    assert rollback(registry, catalog, request(""), rollback_row(catalog, MODEL)).champion == "1"
    row = rollback_row(catalog, MODEL)
    assert (row.kind, row.to_version) == (FOUND, "4")
    with pytest.raises(BackdropError, match="Version 4 of backdrop-engine waits for approval"):
        rollback(registry, catalog, request("", approval=True), row)
    assert rollback(registry, catalog, request(""), row).champion == "4"


def test_a_rollback_is_to_what_the_version_held(registry: Registry, catalog: Catalog) -> None:
    """A model that was deleted and registered anew counts its versions from 1 again."""
    promote(registry, catalog, request("1"))
    promote(registry, catalog, request("2"))
    row = replace(rollback_row(catalog, MODEL), bundle="ee" * 32)
    with pytest.raises(BackdropError, match=r"Version 1 of .* holds bundle 000000000000…, the ledger's row says eeee"):
        rollback(registry, catalog, request(""), row)
    assert registry.aliases(MODEL)["champion"] == "2"


def test_a_rollback_to_a_version_that_was_deleted_is_refused(registry: Registry, catalog: Catalog) -> None:
    version = registry.register(MODEL, "cd" * 32)
    promote(registry, catalog, request(version))
    promote(registry, catalog, request("1"))
    registry._client().delete_model_version(MODEL, version)
    with pytest.raises(BackdropError, match=f"no version {version} of"):
        rollback(registry, catalog, request(""), rollback_row(catalog, MODEL))
    assert registry.aliases(MODEL)["champion"] == "1"
    reconcile(registry, catalog, MODEL)  # MLflow has dropped @previous with it
    assert "previous" not in registry.aliases(MODEL)


# ── hands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_alias_moved_by_hand_is_noticed_once(registry: Registry, catalog: Catalog) -> None:
    registry.set_alias(MODEL, "champion", "4")
    (first,) = reconcile(registry, catalog, MODEL)
    assert (first.kind, first.from_version, first.to_version) == (FOUND, None, "4")
    assert first.reason == "the alias was set before the ledger began"
    promote(registry, catalog, request("1"))
    registry.set_alias(MODEL, "champion", "3")
    newest = promotion.history(registry, catalog, MODEL)[0]
    assert (newest.kind, newest.from_version, newest.to_version, newest.who) == (
        FOUND, "1", "3", "unverified actor unknown",
    )  # fmt: skip
    assert registry.aliases(MODEL)["previous"] == "1"
    registry.drop_alias(MODEL, "champion")
    outcome = promote(registry, catalog, request("2"))
    assert [entry.to_version for entry in outcome.noticed] == [None]
    assert (outcome.champion, outcome.previous) == ("2", None)
    agree(registry, catalog)


def test_evidence_against_a_champion_that_a_hand_replaced_does_not_count(registry: Registry, catalog: Catalog) -> None:
    promote(registry, catalog, request("1"))
    registry.set_alias(MODEL, "champion", "3")
    with pytest.raises(BackdropError, match="the evidence compares with 1"):
        promote(registry, catalog, request("2", against="1"))
    agree(registry, catalog)
    assert registry.aliases(MODEL)["champion"] == "3"


def test_a_hand_between_two_steps_is_noticed_too(registry: Registry, catalog: Catalog) -> None:
    class Hand(Registry):
        """Somebody who moves the alias right after we did."""

        def set_alias(self, name: str, alias: str, version: str) -> None:
            super().set_alias(name, alias, version)
            if alias == "champion":
                super().set_alias(name, alias, "4")

    with pytest.raises(BackdropError, match="moved by hand while it was promoted"):
        promote(Hand(registry.uri), catalog, request("2"))
    assert [entry.kind for entry in catalog.entries(MODEL)] == [FOUND, ABANDONED, INTENT]
    agree(registry, catalog)


# ── who and what ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_actor_who_signed_is_verified(registry: Registry, catalog: Catalog) -> None:
    signed = replace(request("1"), actor=Actor("bo", verified=True, token="t0k3n"))
    entry = promote(registry, catalog, signed).entry
    assert entry is not None
    assert (entry.who, entry.evidence["token"]) == ("bo", "t0k3n")
    assert ANNA.verified is False


def test_an_alias_on_a_version_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    """MLflow unsets the aliases of a version that it deletes; a database that was restored, or edited, may not."""
    from sqlalchemy import create_engine, text

    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    registry.register(MODEL, "1a" * 32)
    registry.register(MODEL, "2b" * 32)
    registry.set_alias(MODEL, "champion", "1")
    registry._client().delete_model_version(MODEL, "1")
    assert registry.get_alias(MODEL, "champion") is None
    registry.set_alias(MODEL, "champion", "2")
    with create_engine(registry.uri).begin() as connection:
        connection.execute(text("UPDATE registered_model_aliases SET version = 1"))
    with pytest.raises(BackdropError, match="backdrop-engine@champion points at version 1, which is gone"):
        registry.get_alias(MODEL, "champion")
