"""The hash of a module's sources changes with what it runs, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import BackdropError
from infra.sources import source_hash, sources_of

FILES = {
    "training/__init__.py": '"""Training."""\n',
    "training/recipe.py": "import torch\nfrom training import flow\n\ndef run():\n    from infra.store import put\n",
    "training/flow.py": "from .maths import lerp\n",
    "training/maths.py": "lerp = 1\n",
    "training/other.py": "unused = 1\n",
    "infra/__init__.py": "",
    "infra/store.py": (
        "from typing import TYPE_CHECKING\nimport training.recipe\n"
        "if TYPE_CHECKING:\n    from infra import types_only\n"
    ),
    "infra/types_only.py": "",
    "infra/table.yaml": "a: 1\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_closure_follows_every_import_that_can_run(root: Path) -> None:
    assert sources_of("training.recipe", root) == [
        "infra",
        "infra.store",
        "training",
        "training.flow",
        "training.maths",
        "training.recipe",
    ]


@pytest.mark.parametrize("name", ["training/recipe.py", "training/maths.py", "infra/store.py"])
def test_a_change_in_what_is_imported_changes_the_hash(root: Path, name: str) -> None:
    before = source_hash("training.recipe", root)
    with (root / name).open("a") as file:
        file.write("x = 2\n")
    assert source_hash("training.recipe", root) != before


@pytest.mark.parametrize("name", ["training/other.py", "infra/types_only.py", "infra/table.yaml"])
def test_a_change_elsewhere_does_not(root: Path, name: str) -> None:
    before = source_hash("training.recipe", root)
    with (root / name).open("a") as file:
        file.write("# a comment\n")
    assert source_hash("training.recipe", root) == before


def test_an_unknown_module_is_named_with_the_nearest(root: Path) -> None:
    with pytest.raises(BackdropError, match=r"training\.recpe.*Did you mean 'recipe'"):
        source_hash("training.recpe", root)


def test_our_own_modules_are_found_in_the_repository() -> None:
    assert "infra.errors" in sources_of("infra.sources")
    assert len(source_hash("infra.sources")) == 64
