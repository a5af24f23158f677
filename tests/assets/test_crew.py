"""Workers: a poisoned item costs its own call; nothing outlives the parent; slices cut by content."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest

from assets.curation.chunks import chunks
from assets.curation.crew import Crew, Hands
from infra.errors import BackdropError
from infra.settings import REPOSITORY


def double(items: list[int], hands: Hands, poisoned: Mapping[int, str]) -> list[tuple[int, str]]:
    """7 ends the process without a word, 8 never ends, 9 asks for all memory."""
    answers = []
    for place, item in enumerate(items):
        hands.take(place)
        if place in poisoned:
            answers.append((item, poisoned[place]))
            continue
        if item == 7:
            os._exit(9)
        if item == 8:
            time.sleep(600)
        if item == 9:
            try:
                np.ones(1 << 33)
            except MemoryError:
                answers.append((item, "no memory"))
                continue
        answers.append((2 * item, ""))
    return answers


def refuse(items: list[int], hands: Hands, poisoned: Mapping[int, str]) -> None:
    raise BackdropError("the catalog is of a newer version", "update")


def die(items: list[int], hands: Hands, poisoned: Mapping[int, str]) -> None:
    os._exit(3)


def whose(items: list[int], hands: Hands, poisoned: Mapping[int, str]) -> int:
    time.sleep(0.2)
    return os.getpid()


@pytest.mark.integration
def test_poisoned_items_cost_only_themselves() -> None:
    tasks = [list(range(start, start + 5)) for start in range(0, 30, 5)]
    with Crew(2, memory=4 << 30) as crew:
        answers = sorted(answer for some in crew.map(double, tasks, timeout_s=3) for answer in some)
    ill = {item: reason for item, reason in answers if reason}
    assert ill == {7: "its decoder died", 8: "nothing came of it in 3 s", 9: "no memory"}
    assert [number for number, reason in answers if not reason] == [2 * k for k in range(30) if k not in (7, 8, 9)]


@pytest.mark.integration
def test_an_error_of_ours_comes_through_and_a_death_over_nothing_is_one() -> None:
    with Crew(1) as crew:
        with pytest.raises(BackdropError, match="newer version"):
            list(crew.map(refuse, [[1]]))
        with pytest.raises(BackdropError, match="over no picture in particular"):
            list(crew.map(die, [[1]]))


@pytest.mark.integration
def test_tasks_are_drawn_only_when_a_worker_is_free() -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[list[int]]:
        for k in range(40):
            drawn.append(k)
            yield [k]

    with Crew(2) as crew:
        for count, _ in enumerate(crew.map(whose, tasks()), start=1):
            assert len(drawn) <= count + 2


_PARENT = """
from assets.curation.crew import Crew
from tests.assets.test_crew import whose
if __name__ == "__main__":
    with Crew(2) as crew:
        for pid in crew.map(whose, [1] * 1000):
            print(pid, flush=True)
"""


@pytest.mark.integration
def test_workers_do_not_outlive_a_killed_job(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = {psutil.Process(int(parent.stdout.readline())) for _ in range(4)}
        parent.kill()
    _, alive = psutil.wait_procs(list(children), timeout=20)
    assert alive == []


def test_an_item_more_changes_one_slice() -> None:
    items = [f"{k:06d}" for k in range(20_000)]
    before = {tuple(some) for some in chunks(items, str, 100)}
    sizes = [len(some) for some in before]
    assert max(sizes) <= 200
    assert 60 <= np.mean(sizes) <= 130
    more = sorted([*items, "004321b", "015000a"])
    after = {tuple(some) for some in chunks(more, str, 100)}
    assert len(after - before) <= 6
    assert [item for some in chunks(more, str, 100) for item in some] == more
    assert list(chunks([], str, 100)) == []


@pytest.mark.integration
def test_who_died_between_two_streams_is_replaced() -> None:
    with Crew(2) as crew:
        before = set(crew.map(whose, [[k] for k in range(6)]))
        lost = before.pop()
        os.kill(lost, signal.SIGKILL)
        while psutil.Process(lost).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        after = set(crew.map(whose, [[k] for k in range(6)]))
    assert len(after) == 2
    assert before < after
    assert lost not in after


@pytest.mark.integration
def test_a_worker_needs_no_database() -> None:
    """Its libraries take as long to import as it takes to scan a thousand pictures."""
    code = (
        "import sys, assets.curation.crew, assets.curation.scan, assets.curation.enrich, assets.curation.packing\n"
        "print([name for name in ('sqlalchemy', 'psycopg', 'torch', 'great_expectations') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
