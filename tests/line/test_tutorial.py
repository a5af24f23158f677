"""The tutorial's commands on the smallest preset, in its order, with drawn photographs; and what it says one sees.

Its first run is killed in the middle, and run again, as the page promises.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import time
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from infra.settings import REPOSITORY
from tests.line.conftest import Ran, Workshop
from tests.line.drawn import picture
from tests.line.test_small_line import ASSETS, made

pytestmark = [pytest.mark.line, pytest.mark.timeout(1800)]

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text()
#: What each command is to say, in the page's order.
SAID = [
    ("run", r"raw_images\[shop-\w+\]\s+(made|reused)"),
    ("quarantine", r"corrupt|truncated|not an image"),
    ("trace", r"drop\s+[\d.]+\s+blurred"),
    ("trace", r"is version 1, bundle [0-9a-f]{64}"),
    ("ui", ""),  # tests/line/test_web_ui.py
    ("personalise", r'captions call it "sks clock"'),
    ("run", r"raw_images\[more-\w+\]\s+made"),
    ("history", r"@challenger 2"),
    ("promote", r"version 2 of backdrop-engine is champion"),
    ("rollback", r"version 1 of backdrop-engine is champion"),
    ("history", r"@champion 1"),
    ("takedown", r"dry run: nothing was changed"),
    ("takedown", r"takedown 1 is carried out"),
    ("clean", r"removed "),
]


def commands() -> list[list[str]]:
    """The words of every command of the page's sh blocks, after `backdrop`; make's are spelled as those it runs."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            program, *words = shlex.split(line, comments=True)
            assert program in ("backdrop", "make"), line
            if program == "make":
                words = [part for word in words for part in spelled(word)]
            found.append(words)
    return found


def spelled(word: str) -> list[str]:
    """`IMAGES=x` as make's recipe writes it."""
    name, given, value = word.partition("=")
    return [f"--{name.lower()}", value] if given else [word]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """~/shop, ~/more and ~/clock, with a blurred picture and a broken one."""
    for folder, names in {
        "shop": ["clock-00", "clock-01", "clock-02", "mug"],
        "more": ["lamp", "vase"],
        "clock": ["clock-00", "clock-01", "clock-02"],
    }.items():
        (tmp_path / folder).mkdir()
        for name in names:
            picture(tmp_path / folder / f"{name}.jpg", seed=sum(name.encode()) + len(folder) * (folder == "more"))
    shop = tmp_path / "shop"
    (shop / "clock-00.txt").write_text("a yellow alarm clock on a white table\n")
    (shop / "broken.jpg").write_bytes((shop / "mug.jpg").read_bytes()[:500])
    Image.open(shop / "mug.jpg").filter(ImageFilter.GaussianBlur(9)).save(shop / "blurred.jpg")
    return tmp_path


def trained(workshop: Workshop) -> set[str]:
    """Assets after the training set whose job has committed its result."""
    stages = workshop.state / "store" / "stages"
    return {name for name in ASSETS[ASSETS.index("autoencoder") :] if any((stages / name).rglob("result.json"))}


def killed_in_the_middle(workshop: Workshop, words: list[str]) -> set[str]:
    """Starts the command and ends it with kill -9 at a random moment of its trainings; what was done by then."""
    seed = int.from_bytes(os.urandom(4), "big")
    chosen = random.Random(seed)
    # In the middle of a job, the latest the one that makes the engine.
    count, wait = chosen.randint(1, ASSETS.index("tensorrt_engine") - ASSETS.index("autoencoder")), chosen.uniform(0, 2)
    print(f"seed {seed}: kill -9 {wait:.1f} s after result {count}")
    process = workshop.start(*words)
    deadline = time.monotonic() + 400
    while len(trained(workshop)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(wait)
    done = trained(workshop)
    ended = process.poll()
    process.kill()
    said, _ = process.communicate()
    assert ended is None, f"it ended with {ended} before it was killed:\n{said}"
    assert len(done) >= count, said
    return done


def test_the_tutorial_goes_as_it_is_written(workshop: Workshop, home: Path) -> None:
    every = commands()
    assert [words[0] for words in every] == [name for name, _ in SAID], "the page has other commands than this test"

    def placed(words: list[str]) -> list[str]:
        return [str(home / word[2:]) if word.startswith("~/") else word for word in words]

    def does(words: list[str], said: str) -> Ran:
        ran = workshop.run(*placed(words), timeout=800)
        assert ran.code == 0, f"{' '.join(words)}:\n{ran.output}"
        assert re.search(said, ran.output), f"{' '.join(words)}: no {said!r} in\n{ran.output}"
        return ran

    first, *ways, last = [(words, said) for words, (name, said) in zip(every, SAID, strict=True) if name != "ui"]
    done = killed_in_the_middle(workshop, placed(first[0]))
    again = does(*first)
    assert not made(again) & done, f"finished before the kill, yet made again:\n{again.output}"
    with workshop.kept_up():
        for words, said in ways:
            ran = does(words, said)
            if words[0] == "run":
                joins_the_mix(ran)
    assert workshop.state.exists()
    does(*last)
    assert not workshop.state.exists()
    assert (home / "shop" / "clock-01.jpg").exists()


def joins_the_mix(ran: Ran) -> None:
    """Two pictures more are below the share at which the first two models learn anew; what follows learns from them."""
    assert {"raw_images", "latent_shards", "inpainting_finetune", "distilled_model"} <= made(ran), ran.output
    assert not {"autoencoder", "pretrained_dit"} & made(ran), ran.output
    assert "raw_images[sample-tiny]" in ran.output


def test_what_the_page_shows_is_what_the_line_says(home: Path) -> None:
    for said in ("is in effect: the images are on the skip list", "captions call it", "the champion stays"):
        assert said in PAGE
        sources = [*(REPOSITORY / "orchestration").glob("*.py"), *(REPOSITORY / "evaluation").glob("*.py")]
        assert any(said in path.read_text() for path in sources), said
