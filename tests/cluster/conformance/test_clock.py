"""The clock that a test holds."""

from __future__ import annotations

import threading
import time

from tests.cluster.clock import FakeClock


def test_sleepers_wake_in_order_and_loops_run_through_days() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    def poll(name: str, every: float) -> None:
        while clock.monotonic() < 3 * 86400:
            clock.sleep(every)
            woken.append((name, clock.monotonic()))

    threads = [threading.Thread(target=poll, args=a, daemon=True) for a in (("fast", 600.0), ("slow", 3600.0))]
    for thread in threads:
        thread.start()
    while len(clock._sleepers) < 2:
        time.sleep(0.001)
    begun = time.monotonic()
    clock.advance(3 * 86400)
    for thread in threads:
        thread.join(5)
    assert [t for n, t in woken if n == "fast"] == [600.0 * k for k in range(1, 433)]
    assert [t for n, t in woken if n == "slow"] == [3600.0 * k for k in range(1, 73)]
    assert [t for _, t in woken] == sorted(t for _, t in woken)
    assert time.monotonic() - begun < 10


def test_time_stands_without_advance() -> None:
    clock = FakeClock()
    before = clock.now()
    time.sleep(0.01)
    assert (clock.now(), clock.monotonic()) == (before, 0.0)
    clock.advance(90)
    assert ((clock.now() - before).total_seconds(), clock.monotonic()) == (90, 90)


def test_a_thread_that_is_stuck_elsewhere_holds_time_for_its_patience_only() -> None:
    clock = FakeClock(patience=0.1)
    stuck = threading.Event()

    def work() -> None:
        clock.sleep(1)
        stuck.wait(30)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while not clock._sleepers:
        time.sleep(0.001)
    begun = time.monotonic()
    clock.advance(10)
    assert time.monotonic() - begun < 5
    assert clock.monotonic() == 10
    stuck.set()
