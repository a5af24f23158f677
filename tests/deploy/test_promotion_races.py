"""Promotions that meet, wait for each other, or are killed between any two steps, on the same real services."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager

import pytest

from deploy import promotion
from deploy.approvals import Actor
from deploy.promotion import look, promote, rollback, rollback_row
from deploy.reconciliation import reconcile
from deploy.registry import Registry
from infra.catalog import Catalog
from infra.catalog.ledger import ABANDONED, DONE, FOUND, INTENT, REFUSED, REJECTED
from infra.errors import BackdropError, ServiceError
from tests.deploy.promoting import MODEL, Counted, agree, end_of, in_process, killed_at, request

pytestmark = pytest.mark.integration

#: How often races and kills are repeated; the judge's figure is 100.
REPEATS = int(os.environ.get("PROMOTION_REPEATS", "1"))


@pytest.mark.parametrize("repeat", range(REPEATS))
def test_of_two_at_once_one_wins_and_both_are_in_the_ledger(
    registry: Registry, catalog: Catalog, promotion_server: str, repeat: int
) -> None:
    promote(registry, catalog, request("1"))
    read, write = os.pipe()

    def run(version: str) -> None:
        mine, ledger = Registry(promotion_server), Catalog(catalog.url)
        mine.aliases(MODEL), ledger.entries(MODEL)  # connected and imported
        os.read(read, 1)
        promote(mine, ledger, request(version, actor=Actor(f"actor {version}")))

    pids = [in_process(lambda v=version: run(v)) for version in ("2", "3")]  # type: ignore[misc]
    time.sleep(0.5)
    os.write(write, b"..")
    codes = [end_of(pid) for pid in pids]
    os.close(read), os.close(write)
    assert sorted(codes) == [0, 1]
    winner = "2" if codes[0] == 0 else "3"
    rows = catalog.entries(MODEL, limit=3)
    assert [row.kind for row in rows] == [REFUSED, DONE, INTENT]
    assert {row.to_version for row in rows} == {"2", "3"}
    assert {row.actor for row in rows} == {"actor 2", "actor 3"}
    assert registry.aliases(MODEL) == {"champion": winner, "previous": "1"}
    agree(registry, catalog)


def test_who_asked_before_another_was_promoted_comes_too_late(registry: Registry, catalog: Catalog) -> None:
    """As two commands do that were started at once, and of which one had been done before the other was ready."""
    promote(registry, catalog, request("1"))
    seen = look(registry, catalog, MODEL)
    promote(registry, catalog, request("2", seen=seen))
    with pytest.raises(BackdropError, match="moved to version 2 by unverified actor anna meanwhile"):
        promote(registry, catalog, request("3", seen=seen))
    assert promote(registry, catalog, request("2", seen=seen)).entry is None, "what is asked for is so already"
    late = catalog.entries(MODEL, limit=1)[0]
    assert (late.kind, late.to_version) == (REFUSED, "2")
    assert late.reason == "It was made champion by unverified actor anna meanwhile."
    assert promote(registry, catalog, request("3")).champion == "3"


def test_a_rival_that_was_killed_after_it_had_moved_the_alias_has_won(
    registry: Registry, catalog: Catalog, promotion_server: str
) -> None:
    promote(registry, catalog, request("1"))
    seen = look(registry, catalog, MODEL)
    step = 0
    while registry.aliases(MODEL)["champion"] == "1":
        step += 1
        killed_at(step, promotion_server, catalog.url, lambda r, c: promote(r, c, request("2", seen=seen)))
    assert len(catalog.open_intents(MODEL, "champion")) >= 1
    with pytest.raises(BackdropError, match="moved to version 2 by unverified actor anna meanwhile"):
        promote(registry, catalog, request("3", seen=seen))
    assert registry.aliases(MODEL)["champion"] == "2"
    outcome = promote(registry, catalog, request("3"))
    assert outcome.champion == "3", "who asks now knows of it"
    agree(registry, catalog)


def test_what_was_killed_before_somebody_asked_stops_nobody(
    registry: Registry, catalog: Catalog, promotion_server: str
) -> None:
    promote(registry, catalog, request("1"))
    step = 0
    while registry.aliases(MODEL)["champion"] == "1":
        step += 1
        killed_at(step, promotion_server, catalog.url, lambda r, c: promote(r, c, request("2")))
    outcome = promote(registry, catalog, request("3"))
    assert (outcome.champion, outcome.previous) == ("3", "2")
    assert outcome.noticed[-1].kind == DONE


def test_a_hand_that_came_after_somebody_had_asked_is_a_rival_too(registry: Registry, catalog: Catalog) -> None:
    promote(registry, catalog, request("1"))
    seen = look(registry, catalog, MODEL)
    registry.set_alias(MODEL, "champion", "4")
    with pytest.raises(BackdropError, match="moved to version 4 outside the ledger meanwhile"):
        promote(registry, catalog, request("3", seen=seen))
    assert [entry.kind for entry in catalog.entries(MODEL, limit=2)] == [REFUSED, FOUND]


def test_who_does_not_get_the_lock_is_in_the_ledger_too(registry: Registry, catalog: Catalog) -> None:
    class Impatient(Catalog):
        """Waits for a tenth of a second."""

        def alias_lock(self, model: str, alias: str, seconds: float = 0.1) -> AbstractContextManager[None]:
            return super().alias_lock(model, alias, 0.1)

    with catalog.alias_lock(MODEL, "champion"):
        for ask in (promote, promotion.approve):
            with pytest.raises(ServiceError, match="held by another promotion"):
                ask(registry, Impatient(catalog.url), request("1"))
    rows = catalog.entries(MODEL)
    assert [(row.kind, row.to_version) for row in rows] == [(REFUSED, "1"), (REFUSED, "1")]
    assert "held by another promotion" in rows[0].reason


def steps_of(registry: Registry, catalog: Catalog) -> int:
    """How many calls of registry and catalog one promotion makes."""
    count = [0]
    promote(Counted(registry, count, 0), Counted(catalog, count, 0), request("2"))  # type: ignore[arg-type]
    return count[0]


@pytest.mark.timeout(REPEATS * 200)
def test_killed_between_any_two_steps_alias_and_ledger_agree_after_the_next_command(
    registry: Registry, catalog: Catalog, promotion_server: str
) -> None:
    promote(registry, catalog, request("1"))
    steps = steps_of(registry, catalog)
    closed: set[str] = set()
    for repeat in range(REPEATS):
        for step in range(1, steps + 1):
            champion = registry.aliases(MODEL)["champion"]
            other = "3" if champion != "3" else "2"
            code = killed_at(step, promotion_server, catalog.url, lambda r, c: promote(r, c, request(other)))  # noqa: B023
            assert code == -9, f"repeat {repeat}: step {step} of {steps} was not reached"
            closed.update(after_a_kill(registry, catalog, (step + repeat) % 4, champion, other))
            assert catalog.open_intents(MODEL, "champion") == [], "the next command has not looked"
            agree(registry, catalog)
    assert closed == {DONE, ABANDONED}, "no kill fell before or after the alias was moved"


def after_a_kill(registry: Registry, catalog: Catalog, command: int, before: str, other: str) -> set[str]:
    """The next command after a promotion from `before` to `other` was killed; the kinds of rows that it closed."""
    left, now = catalog.open_intents(MODEL, "champion"), registry.aliases(MODEL)["champion"]
    expected = [DONE if now == other else ABANDONED for _ in left]
    newest = catalog.entries(MODEL, limit=1)[0].id
    if command == 0:  # the same again
        assert promote(registry, catalog, request(other)).champion == other
    elif command == 1:  # one that only looks
        reconcile(registry, catalog, MODEL)
        assert registry.aliases(MODEL)["champion"] == now
    elif command == 2:  # a judgement of another version
        promotion.reject(registry, catalog, request("4"))
        assert registry.aliases(MODEL)["champion"] == now
    else:  # back
        seen = look(registry, catalog, MODEL)
        row = rollback_row(catalog, MODEL)
        assert row.to_version != now
        assert row.to_version == before or now == before, "the promotion that was killed counts where it moved"
        assert rollback(registry, catalog, request("", seen=seen), row).champion == row.to_version
    written = [entry for entry in reversed(catalog.entries(MODEL)) if entry.id > newest]
    assert [entry.kind for entry in written[: len(left)]] == expected
    return set(expected)


@pytest.mark.timeout(REPEATS * 100)
def test_a_no_that_is_killed_between_any_two_steps_leaves_no_challenger(
    registry: Registry, catalog: Catalog, promotion_server: str
) -> None:
    for repeat in range(REPEATS):
        step, code, judged = 0, -9, 0
        while code == -9:
            step += 1
            promotion.approve(registry, catalog, request("2"))
            registry.set_alias(MODEL, "challenger", "2")
            code = killed_at(
                step, promotion_server, catalog.url, lambda r, c: promotion.reject(r, c, request("2", "cups"))
            )
            reconcile(registry, catalog, MODEL)
            newest = catalog.judgement(MODEL, f"{2:064x}")
            assert newest is not None
            tag = registry.version(MODEL, "2").tags["backdrop.judged"]
            if newest.kind == REJECTED:
                judged += 1
                assert registry.aliases(MODEL) == {}, f"repeat {repeat}, step {step}"
                assert tag == "rejected by unverified actor anna: cups"
            else:
                assert registry.aliases(MODEL) == {"challenger": "2"}
        assert judged > 2, "no kill fell after the row"


def test_a_kill_does_not_hold_the_lock(registry: Registry, catalog: Catalog, promotion_server: str) -> None:
    def hold(_registry: object, ledger: Catalog) -> None:
        with ledger.alias_lock(MODEL, "champion"):
            ledger.entries(MODEL)

    assert killed_at(2, promotion_server, catalog.url, hold) == -9
    with catalog.alias_lock(MODEL, "champion", seconds=5):
        pass
