"""Which engine answers: swaps, leases, engines that do not open, a registry that is away."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.registry import ModelVersion
from deploy.studio import engines as watched
from deploy.studio.engines import Engines
from deploy.studio.opened import Opened
from deploy.studio.refusal import Refusal
from deploy.studio.slots import Slot
from infra.errors import BackdropError


class Closing:
    """In place of an engine."""

    closed = False

    def close(self) -> None:
        self.closed = True


def version(number: int, **tags: str) -> ModelVersion:
    return ModelVersion("backdrop-engine", str(number), f"{number:064x}", {f"backdrop.{k}": v for k, v in tags.items()})


def opened(number: int) -> Any:
    return Opened(version(number), Closing(), 4, 2.0, "")  # type: ignore[arg-type]


class Fake:
    """A registry and a store in memory; `broken` versions do not open."""

    def __init__(self) -> None:
        self.at: dict[str, ModelVersion] = {}
        self.broken: set[str] = set()
        self.away = False
        self.opened: list[Any] = []

    def aliases(self) -> dict[str, ModelVersion]:
        if self.away:
            raise ConnectionError("refused")
        return dict(self.at)

    def open(self, version: ModelVersion) -> Opened:
        if version.version in self.broken:
            raise BackdropError("The signature is wrong.")
        self.opened.append(opened(int(version.version)))
        return self.opened[-1]


def test_an_engine_is_closed_after_its_last_lease() -> None:
    slot, old, new = Slot(), opened(1), opened(2)
    slot.swap(old)
    with slot.lease() as first:
        slot.swap(new)
        with slot.lease() as second:
            assert (first, second) == (old, new)
        assert not old.engine.closed
        assert slot.idle == 0
    assert old.engine.closed
    assert not new.engine.closed
    slot.swap(None)
    assert new.engine.closed
    with slot.lease() as none:
        assert none is None


def test_the_champion_follows_its_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    source, told = Fake(), []
    engines = Engines(source, idle_seconds=60, told=lambda *change: told.append(change))
    engines.poll()
    with pytest.raises(Refusal, match="no champion yet") as refused, engines.lease("champion"):
        pass
    assert (refused.value.status, "make run" in refused.value.remedy) == (503, True)
    source.at = {"champion": version(1)}
    engines.poll()
    source.at = {"champion": version(2)}
    source.broken = {"2"}
    engines.poll()
    assert engines.current("champion").version.version == "1"  # who serves stays
    assert "cannot be opened" in engines.problem
    source.broken = set()
    engines.poll()  # not tried again at once
    assert engines.current("champion").version.version == "1"
    monkeypatch.setattr(watched, "RETRY_SECONDS", 0)
    engines.poll()
    assert engines.current("champion").version.version == "2"
    assert source.opened[0].engine.closed
    source.away = True
    engines.poll()
    assert engines.current("champion").version.version == "2"
    assert "does not answer" in engines.problem
    source.away, source.at = False, {"champion": version(2, tainted="takedown 7")}
    engines.poll()
    assert engines.taint == "takedown 7"
    assert engines.problem == ""
    assert told == [("champion", "1", True), ("champion", "2", False), ("champion", "2", True)]
    engines.stop()
    assert source.opened[-1].engine.closed


def test_a_challenger_is_open_while_somebody_asks() -> None:
    source = Fake()
    source.at = {"champion": version(1), "challenger": version(2)}
    engines = Engines(source, idle_seconds=0.0)
    engines.poll()
    assert len(source.opened) == 1
    engines.ensure("challenger")
    with engines.lease("challenger") as answering:
        assert answering.version.version == "2"
        engines.poll()
        assert engines.current("challenger") is not None
    engines.poll()
    assert engines.current("challenger") is None
    source.at["challenger"] = version(1)
    engines.poll()
    with pytest.raises(Refusal, match="version 1 is both"):
        engines.ensure("challenger")
    del source.at["challenger"]
    engines.poll()
    with pytest.raises(Refusal, match="no challenger"):
        engines.ensure("challenger")
