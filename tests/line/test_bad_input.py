"""Bad input ends in one clear message that names the thing and the way out, and a non-zero exit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line.conftest import Ran, Workshop

pytestmark = [pytest.mark.line, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One for all: each is refused before a service is started."""
    fresh = Workshop(tmp_path_factory.mktemp("refused") / "state")
    yield fresh
    started = (fresh.state / "postgres.json").exists()
    if started:
        fresh.run("clean")
    assert not started


def refused(ran: Ran, *named: str) -> None:
    assert ran.code != 0, ran.output
    assert "Traceback" not in ran.output, ran.output
    assert ran.output.count("error:") == 1, ran.output
    for word in named:
        assert word in ran.output, f"{word!r} is not in:\n{ran.output}"
    assert "→" in ran.output, "it must say what to do"


def test_a_missing_folder(workshop: Workshop, tmp_path: Path) -> None:
    refused(workshop.run("run", "--images", str(tmp_path / "nowhere")), "nowhere")


def test_an_empty_folder(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    refused(workshop.run("run", "--images", str(tmp_path / "void")), "void")


def test_a_folder_without_a_picture(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "letter.odt").write_text("dear")
    refused(workshop.run("run", "--images", str(tmp_path / "papers")), "papers")


def test_an_unknown_key(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("pretrain: {stepps: 3}\n")
    refused(workshop.run("run", "--config", str(tmp_path / "mine.yaml")), "stepps", "steps", "mine.yaml")


def test_an_unknown_preset(workshop: Workshop) -> None:
    refused(workshop.run("run", "--preset", "nanno"), "nanno", "nano")


def test_an_unknown_setting(workshop: Workshop) -> None:
    refused(workshop.run("run", BACKDROP_PRESETT="tiny"), "BACKDROP_PRESETT", "BACKDROP_PRESET")


def test_a_database_that_is_away(workshop: Workshop) -> None:
    ran = workshop.run("run", BACKDROP_CATALOG_URL="postgresql+psycopg://me:hush@127.0.0.1:9/catalog")
    refused(ran, "127.0.0.1", "9")
    assert "hush" not in ran.output


def test_a_missing_text_encoder(workshop: Workshop, tmp_path: Path) -> None:
    refused(workshop.run("run", BACKDROP_TEXT_ENCODER=str(tmp_path / "no-encoder")), "no-encoder")


def test_a_caption_file_that_does_not_parse(workshop: Workshop, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "captioned"
    folder.mkdir()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folder / "a.png")
    (folder / "captions.jsonl").write_text('{"path": "a.png", "caption": "red"}\n{"path": "a.png", \n')
    refused(workshop.run("run", "--images", str(folder)), "captions.jsonl", "2")
