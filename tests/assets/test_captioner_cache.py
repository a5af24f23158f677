"""A caption is asked for once: the cache, and a run that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assets.curation.captioner import CaptionSection, forget_captions
from infra.object_store import DirectoryStore, ObjectStore
from infra.settings import REPOSITORY
from tests.assets.captioning import Reply, Server, answer, captioner, pictures


def test_a_cached_caption_makes_no_request(server: Server, store: ObjectStore) -> None:
    given = pictures(6)
    first = captioner(server, store).caption(given[:4])
    again = captioner(server, store).caption([*given, given[0]])
    assert again[:4] == first
    assert again[6] == again[0]
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 6
    model = CaptionSection(url=server.url, model="eye").model_hash
    assert sorted(store.list("captions/")) == sorted(f"captions/{model}/{image}.json" for image, _ in given)


def test_a_damaged_cache_entry_is_asked_for_again(server: Server, store: ObjectStore) -> None:
    ((image, data),) = pictures(1)
    one = captioner(server, store)
    one.caption([(image, data)])
    (key,) = store.list("captions/")
    for damaged in (b"", b"{", b"[]", b'{"caption": ""}', b"\xff"):
        store.put(key, damaged)
        assert one.caption([(image, data)])[0].text
    assert server.asked[image] == 6


def test_another_model_or_prompt_asks_anew_and_another_address_does_not(server: Server, store: ObjectStore) -> None:
    (one,) = pictures(1)
    for settings in ({}, {"model": "other"}, {"prompt": "What is it?"}, {"revision": "2"}, {"options": {"seed": 1}}):
        captioner(server, store, **settings).caption([one])
    assert server.asked[one[0]] == 5
    assert captioner(server, store, url="http://127.0.0.1:9").caption([one])[0].text
    assert server.asked[one[0]] == 5


def test_forgotten_captions_are_gone_for_every_model(server: Server, store: ObjectStore) -> None:
    given = pictures(3)
    for model in ("one", "two", "three"):
        captioner(server, store, model=model).caption(given)
    assert forget_captions(store, [given[0][0], given[2][0], "f" * 64]) == 6
    assert {key.rpartition("/")[2] for key in store.list("captions/")} == {f"{given[1][0]}.json"}
    assert len(list(store.list("captions/"))) == 3


def test_the_cache_lives_in_a_bucket_too(server: Server, s3_store: ObjectStore) -> None:
    given = pictures(4)
    first = captioner(server, s3_store).caption(given)
    assert captioner(server, s3_store).caption(given) == first
    assert sum(server.asked.values()) == 4
    assert forget_captions(s3_store, [image for image, _ in given]) == 4


@pytest.mark.integration
def test_a_killed_run_asks_only_for_what_is_missing(server: Server, tmp_path: Path) -> None:
    given, concurrency = pictures(40), 3
    folder, store = tmp_path / "in", DirectoryStore(tmp_path / "store")
    folder.mkdir()
    for image, data in given:
        (folder / image).write_bytes(data)
    program = (
        "import sys; from pathlib import Path\n"
        "from assets.curation.captioner import CaptionSection, OpenAICaptioner\n"
        "from infra.object_store import DirectoryStore\n"
        "found = [(p.name, p.read_bytes()) for p in sorted(Path(sys.argv[1]).iterdir())]\n"
        f"section = CaptionSection(url={server.url!r}, model='eye', concurrency={concurrency})\n"
        "print(sum(bool(c.text) for c in OpenAICaptioner(section, DirectoryStore(Path(sys.argv[2]))).caption(found)))\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(store.folder)]

    def reply(image: str, _: int) -> Reply:
        time.sleep(0.03)
        return answer(f"Picture {image[:8]}.")

    server.reply = reply
    cached: set[str] = set()
    for kill_after in (4, 15, 30):
        before = server.asked.copy()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while sum(server.answered.values()) < kill_after and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not any(server.asked[image] > before[image] for image in cached)  # nothing was paid for twice
        cached = {key.rpartition("/")[2].removesuffix(".json") for key in store.list("captions/")}
    assert cached
    before = server.asked.copy()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "40"
    asked = {image for image, _ in given if server.asked[image] > before[image]}
    assert asked == {image for image, _ in given} - cached
    assert sum(server.asked.values()) <= 40 + 3 * concurrency  # what was under way at each kill
