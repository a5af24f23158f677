"""Who may import whom: orchestration → assets → deploy → evaluation → training → infra, downwards only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import REPOSITORY

ROOMS = ["orchestration", "assets", "deploy", "evaluation", "training", "infra"]
MAY_IMPORT = {
    "orchestration": {"assets", "deploy", "evaluation", "training", "infra"},
    "assets": {"deploy", "evaluation", "training", "infra"},
    "deploy": {"evaluation", "training", "infra"},
    "evaluation": {"training", "infra"},
    "training": {"infra"},
    "infra": set(),
}
HEAVY = {
    "torch",
    "composer",
    "streaming",
    "mlflow",
    "great_expectations",
    "kubernetes",
    "boto3",
    "pandas",
    "transformers",
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file, also those inside functions and of relative form."""
    package = path.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join([*base, node.module or ""]).rstrip(".")


def sources(room: str) -> list[Path]:
    return sorted((REPOSITORY / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards(room: str) -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {module}"
        for path in sources(room)
        for line, module in imports(path)
        if (top := module.split(".")[0]) in ROOMS and top != room and top not in MAY_IMPORT[room]
    ]
    assert sources(room), f"{room} has no sources"
    assert not wrong, "\n".join(wrong)


def test_training_does_not_know_dagster_or_mlflow() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for path in sources("training")
        for line, module in imports(path)
        if module.split(".")[0] in {"dagster", "dagster_pipes", "mlflow"}
    ]
    assert not wrong, wrong


def test_deploy_runs_without_composer() -> None:
    wrong = [str(p) for p in sources("deploy") for _, m in imports(p) if m.split(".")[0] in {"composer", "streaming"}]
    assert not wrong, wrong


def test_pipes_live_in_one_module() -> None:
    users = {
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        for path in sources(room)
        for _, module in imports(path)
        if module.split(".")[0] == "dagster_pipes"
    }
    assert users == {"infra/jobs/messages.py"}


def test_assets_package_is_empty() -> None:
    assert (REPOSITORY / "assets" / "__init__.py").read_text() == ""


def test_definitions_load_without_heavy_packages() -> None:
    code = (
        "import sys, orchestration.definitions as d; assert d.defs.resolve_all_asset_specs();"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_top_level_is_what_was_agreed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines()}
    agreed = {*ROOMS, "tests", "docs", "dagster.yaml", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"}
    assert top <= agreed | {"Makefile", ".gitignore", ".ci"}


def test_the_lock_names_no_registry() -> None:
    text = (REPOSITORY / "requirements.txt").read_text()
    assert "://" not in text
    assert text.count("--hash=sha256:") > 200
