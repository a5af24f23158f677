"""The recipes of docs/recipes.md work as they are written, in a copy of the rooms."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from tests.documented import output_of

ROOMS = ("assets", "deploy", "evaluation", "infra", "orchestration", "training")
RECIPES = ("A filter", "A metric", "A preset", "A source of captions", "A reader")


@dataclass(frozen=True)
class Recipe:
    """The blocks of one section: files by path, changes as git takes them, and lines that try it."""

    files: dict[str, str]
    changes: str
    trials: list[str]


def recipe(title: str) -> Recipe:
    sections = re.split(r"^## ", (REPOSITORY / "docs" / "recipes.md").read_text(), flags=re.MULTILINE)
    text = next(part for part in sections if part.startswith(f"{title}\n"))
    files: dict[str, str] = {}
    changes, trials = "", []
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        path = re.match(r"# (\S+/\S+\.(?:py|yaml))\n", body)
        if path is not None:
            files[path[1]] = body[path.end() :]
        elif language == "diff":
            changes += body
        elif language == "python":
            trials.append(body)
    return Recipe(files, changes, trials)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The rooms' sources in a folder of their own."""
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_page_of_recipes_has_these() -> None:
    text = (REPOSITORY / "docs" / "recipes.md").read_text()
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == RECIPES


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_it_is_written(title: str, copy: Path) -> None:
    found = recipe(title)
    assert found.files
    assert found.trials
    for path, text in found.files.items():
        assert not (copy / path).exists(), f"{path} is there already"
        (copy / path).write_text(text)
    if found.changes:
        output_of(["git", "apply", "-"], copy, found.changes)
    changed = [*found.files, *re.findall(r"^\+\+\+ b/(\S+)", found.changes, re.MULTILINE)]
    sources = [path for path in changed if path.endswith(".py")]
    if sources:
        output_of([sys.executable, "-m", "ruff", "check", "--no-cache", *sources], copy)
        output_of([sys.executable, "-m", "ruff", "format", "--no-cache", "--check", *sources], copy)
    for number, trial in enumerate(found.trials):
        (copy / f"trial_{number}.py").write_text(trial)
        output_of([sys.executable, f"trial_{number}.py"], copy)


def test_a_trial_fails_where_the_recipe_was_not_followed(copy: Path) -> None:
    with pytest.raises(AssertionError, match="min_colour"):
        output_of([sys.executable, "-"], copy, recipe("A filter").trials[0])
