"""The room where requests wait: what fits, who is dropped, and a call that does not end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from deploy.studio.desk import Desk
from deploy.studio.limits import Limits
from deploy.studio.metrics import Metrics
from deploy.studio.refusal import HungUp, Refusal


def played(scene: Callable[[Desk], Awaitable[None]], **limits: float) -> None:
    async def play() -> None:
        desk = Desk(replace(Limits(), **limits), Metrics())
        try:
            await scene(desk)
        finally:
            desk.close()

    asyncio.run(play())


async def staying() -> None:
    await asyncio.sleep(60)


def test_a_full_room_says_when_to_come_back() -> None:
    async def scene(desk: Desk) -> None:
        places = [desk.enter(), desk.enter()]
        with pytest.raises(Refusal) as refused:
            desk.enter()
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        places[0].claim(150)  # one alone always fits
        with pytest.raises(Refusal, match="megapixels"):
            places[1].claim(1)
        places[0].leave()
        places[1].claim(90)
        places[1].leave()
        desk.enter().claim(100)

    played(scene, waiting=2, waiting_pixels=100)


def test_who_hangs_up_while_waiting_is_dropped_and_who_runs_is_let_run() -> None:
    async def scene(desk: Desk) -> None:
        go, done = threading.Event(), []

        def slow() -> None:
            go.wait(10)
            done.append("slow")

        gone = [asyncio.create_task(staying()) for _ in range(2)]
        first = asyncio.create_task(desk.by_engine(slow, desk.enter(), gone[0]))
        second = asyncio.create_task(desk.by_engine(lambda: done.append("second"), desk.enter(), gone[1]))
        await asyncio.sleep(0.1)
        gone[1].cancel()
        with pytest.raises(HungUp):
            await second
        gone[0].cancel()
        await asyncio.sleep(0.1)
        assert not first.done()  # what it holds is in use
        go.set()
        with pytest.raises(HungUp):
            await first
        assert done == ["slow"]

    played(scene)


def test_a_long_wait_and_a_call_that_does_not_end() -> None:
    async def scene(desk: Desk) -> None:
        go, here = threading.Event(), asyncio.create_task(staying())
        place = desk.enter()
        first = asyncio.create_task(desk.by_engine(lambda: go.wait(10), place, here))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(Refusal, match="has waited") as refused:
            await desk.by_engine(lambda: None, desk.enter(), here)
        assert refused.value.status == 429
        assert time.monotonic() - began < 2
        with pytest.raises(Refusal, match="does not answer"):
            await first
        assert desk.stuck
        place.leave()
        with pytest.raises(Refusal):  # its place is kept, as is the other's
            desk.enter()
        go.set()
        await asyncio.sleep(0.2)
        assert not desk.stuck
        desk.enter()
        here.cancel()

    played(scene, queue_seconds=0.2, engine_seconds=0.3, waiting=2)


def test_what_the_work_raises_is_raised() -> None:
    async def scene(desk: Desk) -> None:
        here = asyncio.create_task(staying())
        with pytest.raises(ZeroDivisionError):
            await desk.by_engine(lambda: 1 / 0, desk.enter(), here)
        assert await desk.by_engine(lambda: 5, desk.enter(), here) == 5
        here.cancel()

    played(scene)


def test_who_waits_for_an_engine_to_open_holds_up_nobody() -> None:
    async def scene(desk: Desk) -> None:
        go = threading.Event()
        opening = [asyncio.create_task(desk.by_opener(lambda: go.wait(10))) for _ in range(4)]
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(desk.by_hand(lambda: "decoded"), 1) == "decoded"
        for each in opening:
            with pytest.raises(Refusal) as refused:
                await each
            assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "10")
        go.set()
        assert await desk.by_opener(lambda: "open") == "open"

    played(scene, queue_seconds=0.2)


def test_a_call_that_takes_long_is_counted_while_it_runs() -> None:
    async def scene(desk: Desk) -> None:
        go = threading.Event()
        gone = asyncio.create_task(staying())
        running = asyncio.create_task(desk.by_engine(lambda: go.wait(10), desk.enter(), gone))
        await asyncio.sleep(2.2)
        with pytest.raises(Refusal) as refused:
            desk.enter()
        assert int(refused.value.headers["Retry-After"]) >= 3
        go.set()
        await running

    played(scene, waiting=1)
