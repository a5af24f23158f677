"""The message channel: nothing is lost, nothing is heard twice, whoever is restarted in between."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ServiceError
from infra.jobs.events import Event, Log, Metrics, Picture, Progress
from infra.jobs.messages import ObjectStoreChannel
from infra.jobs.reader import ObjectStoreReader, Reported
from infra.object_store import DirectoryStore

PREFIX = "messages/job/launch"


class FlakyStore(DirectoryStore):
    """A folder that is away when told so, or takes a write and loses the answer."""

    away = False
    lost_answers = 0

    def put(self, key: str, data: bytes) -> None:
        if self.away:
            raise OSError("connection reset")
        super().put(key, data)
        if self.lost_answers:
            self.lost_answers -= 1
            raise TimeoutError("no answer")

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        if self.away:
            raise OSError("connection reset")
        return super().list(prefix, start_after)


class Handler:
    """Stands for Dagster's message handler."""

    def __init__(self) -> None:
        self.messages: list[Mapping[str, Any]] = []

    def handle_message(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)

    @property
    def methods(self) -> list[str]:
        return [message["method"] for message in self.messages]


@pytest.fixture
def store(tmp_path: Path) -> FlakyStore:
    return FlakyStore(tmp_path)


def message(method: str, **params: Any) -> Any:
    return {"__dagster_pipes_version": "0.1", "method": method, "params": params}


def custom(**payload: Any) -> Any:
    return message("report_custom_message", payload=payload)


def metric(step: int) -> Any:
    return custom(kind="metrics", values={"loss": 1.0}, step=step)


def write_chunk(store: FlakyStore, life: str, sequence: int, messages: dict[int, Any]) -> None:
    lines = [json.dumps({**text, "n": number}) for number, text in messages.items()]
    path = store.folder / PREFIX / life / f"{sequence:08d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def reader_of(store: FlakyStore, events: list[Event], run_id: str = "run") -> ObjectStoreReader:
    return ObjectStoreReader(store, PREFIX, run_id, events.append, drain_patience_s=0.1)


def read_all(store: FlakyStore, run_id: str = "run") -> tuple[list[Event], Handler, ObjectStoreReader]:
    """One whole session that listens only at its end."""
    events: list[Event] = []
    handler = Handler()
    reader = reader_of(store, events, run_id)
    with reader.read_messages(handler):  # type: ignore[arg-type]
        pass
    return events, handler, reader


def steps(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Metrics)]


def test_what_is_written_is_heard_in_order(store: FlakyStore) -> None:
    channel = ObjectStoreChannel(store, f"{PREFIX}/0/1-1", interval=0.01)
    channel.write_message(message("opened", extras={}))
    channel.write_message(message("log", message="hello", level="INFO"))
    channel.write_message(custom(kind="progress", stage="a", done=1.0, total=2.0, unit="steps"))
    channel.write_message(metric(0))
    channel.write_message(custom(kind="picture", name="p", key="k", step=None))
    channel.write_message(custom(kind="result", key="r", sha256="s"))
    channel.write_message(message("closed"))
    channel.close()
    events, handler, reader = read_all(store)
    assert events == [
        Log("info", "hello"),
        Progress("a", 1.0, 2.0, "steps"),
        Metrics({"loss": 1.0}, 0),
        Picture("p", "k", None),
    ]
    assert handler.methods == ["opened", "log", "closed"]
    assert reader.result == Reported("r", "s")


def test_a_thousand_chunks_pending_at_the_end_are_all_read(store: FlakyStore) -> None:
    for number in range(1, 1001):
        write_chunk(store, "0/1-1", number, {number: metric(number)})
    assert steps(read_all(store)[0]) == list(range(1, 1001))


def test_a_process_that_replaces_another_is_heard_after_it_and_its_result_counts(store: FlakyStore) -> None:
    result = {"kind": "result", "key": "first", "sha256": "1"}
    write_chunk(store, "0/1-1", 1, {1: message("opened", extras={}), 2: metric(0), 3: custom(**result)})
    write_chunk(store, "0/1-1", 2, {4: message("closed")})
    write_chunk(store, "0/2-1", 1, {1: message("opened", extras={}), 2: metric(1)})
    events, handler, reader = read_all(store)
    assert steps(events) == [0, 1]
    assert handler.methods == ["opened"]  # the last one has not closed
    assert reader.result is None


def test_an_older_process_that_still_writes_is_heard(store: FlakyStore) -> None:
    events: list[Event] = []
    handler = Handler()
    reader = reader_of(store, events)
    with reader.read_messages(handler):  # type: ignore[arg-type]
        write_chunk(store, "0/1-1", 1, {1: metric(0)})
        write_chunk(store, "0/2-1", 1, {1: metric(10)})
        write_chunk(store, "1/1-7", 1, {1: metric(20)})
        reader.poll()
        write_chunk(store, "0/1-1", 2, {2: metric(1)})
        write_chunk(store, "1/1-7", 2, {2: message("closed")})
        reader.poll()
        assert handler.methods == []  # a close is the end only when the job has ended
    assert steps(events) == [0, 10, 20, 1]
    assert handler.methods == []  # and the node that closed is not the first one


def test_a_lost_answer_of_the_store_doubles_nothing(store: FlakyStore) -> None:
    store.lost_answers = 2
    channel = ObjectStoreChannel(store, f"{PREFIX}/0/1-1", interval=0.01)
    for step in range(50):
        channel.write_message(metric(step))
    channel.close()
    assert steps(read_all(store)[0]) == list(range(50))


def test_a_store_that_is_away_for_a_while_loses_nothing(store: FlakyStore) -> None:
    events: list[Event] = []
    reader = reader_of(store, events)
    with reader.read_messages(Handler()):  # type: ignore[arg-type]
        store.away = True
        channel = ObjectStoreChannel(store, f"{PREFIX}/0/1-1", interval=0.01)
        channel.write_message(metric(0))
        reader.poll()
        assert events == []
        store.away = False
        channel.close()
    assert steps(events) == [0]


def test_messages_that_cannot_be_delivered_are_an_error(store: FlakyStore) -> None:
    channel = ObjectStoreChannel(store, f"{PREFIX}/0/1-1", interval=0.01, patience=0.1)
    store.away = True
    channel.write_message(metric(0))
    with pytest.raises(ServiceError, match="1 messages could not be written"):
        channel.close()


def test_a_forked_worker_says_nothing(store: FlakyStore) -> None:
    channel = ObjectStoreChannel(store, f"{PREFIX}/0/1-1", interval=0.01)
    pid = os.fork()
    if pid == 0:
        channel.write_message(metric(1))
        os._exit(0)
    os.waitpid(pid, 0)
    channel.write_message(metric(0))
    channel.close()
    assert steps(read_all(store)[0]) == [0]


class SlowStore(DirectoryStore):
    """Holds a lock while it writes, as boto3 and OpenSSL do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lock, self.begun = threading.Lock(), threading.Event()

    def put(self, key: str, data: bytes) -> None:
        with self.lock:
            self.begun.set()
            time.sleep(0.3)


def test_a_fork_waits_for_a_write_to_end(tmp_path: Path) -> None:
    slow = SlowStore(tmp_path)
    channel = ObjectStoreChannel(slow, f"{PREFIX}/0/1-1", interval=0.01)
    channel.write_message(metric(0))
    slow.begun.wait()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if slow.lock.acquire(timeout=1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    channel.close()


def test_a_reader_serves_one_session(store: FlakyStore) -> None:
    reader = reader_of(store, [])
    with reader.read_messages(Handler()):  # type: ignore[arg-type]
        pass
    with pytest.raises(RuntimeError, match="one session"), reader.read_messages(Handler()):  # type: ignore[arg-type]
        pass


def test_a_new_session_replays_and_says_so(store: FlakyStore) -> None:
    line = message("log", message="hello", level="INFO")
    result = custom(kind="result", key="r", sha256="s")
    write_chunk(store, "0/1-1", 1, {1: message("opened", extras={}), 2: metric(0), 3: line})
    read_all(store, "first run")
    write_chunk(store, "0/1-1", 2, {4: metric(1), 5: line, 6: result})

    events, handler, reader = read_all(store, "first run")
    assert [(event.step, event.replayed) for event in events if isinstance(event, Metrics)] == [
        (0, True),
        (1, False),
    ]
    assert handler.methods == ["opened", "log"]  # the line that this Dagster run has is not logged again
    assert reader.result == Reported("r", "s")

    assert read_all(store, "another run")[1].methods == ["opened", "log", "log"]


def test_a_listener_that_fails_ends_nothing(store: FlakyStore) -> None:
    write_chunk(store, "0/1-1", 1, {1: metric(0), 2: custom(kind="result", key="r", sha256="s")})

    def fails(event: Event) -> None:
        raise ValueError("no terminal")

    reader = ObjectStoreReader(store, PREFIX, "run", fails)
    with reader.read_messages(Handler()):  # type: ignore[arg-type]
        pass
    assert reader.result is not None
