"""The tutorial's commands on the smallest preset, in its order, with drawn photographs; and what it says one sees."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from infra.settings import REPOSITORY
from tests.line.conftest import Ran, Workshop
from tests.line.test_your_own_pictures import picture

pytestmark = [pytest.mark.line, pytest.mark.timeout(1800)]

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text()
#: What each command is to say, in the page's order.
SAID = [
    ("run", r"raw_images\[shop-\w+\]\s+made"),
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


def test_the_tutorial_goes_as_it_is_written(workshop: Workshop, home: Path) -> None:
    every = commands()
    assert [words[0] for words in every] == [name for name, _ in SAID], "the page has other commands than this test"

    def does(words: list[str], said: str) -> None:
        there = [str(home / word[2:]) if word.startswith("~/") else word for word in words]
        ran: Ran = workshop.run(*there, timeout=800)
        assert ran.code == 0, f"{' '.join(words)}:\n{ran.output}"
        assert re.search(said, ran.output), f"{' '.join(words)}: no {said!r} in\n{ran.output}"

    *ways, last = [(words, said) for words, (name, said) in zip(every, SAID, strict=True) if name != "ui"]
    with workshop.kept_up():
        for words, said in ways:
            does(words, said)
    assert workshop.state.exists()
    does(*last)
    assert not workshop.state.exists()
    assert (home / "shop" / "clock-01.jpg").exists()


def test_what_the_page_shows_is_what_the_line_says(home: Path) -> None:
    for said in ("is in effect: the images are on the skip list", "captions call it", "the champion stays"):
        assert said in PAGE
        sources = [*(REPOSITORY / "orchestration").glob("*.py"), *(REPOSITORY / "evaluation").glob("*.py")]
        assert any(said in path.read_text() for path in sources), said
