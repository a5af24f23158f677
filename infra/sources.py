"""Which of our sources a module depends on, and their hash: the code version of what it makes.

The imports are read from the syntax tree, so nothing is imported. What a module loads by other means (package
data, a module named by a string) is not followed: it belongs in a configuration, which is part of a data
version by itself.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from infra.errors import BackdropError, nearest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = frozenset({"orchestration", "assets", "training", "evaluation", "deploy", "infra"})


def source_hash(module: str, root: Path = REPOSITORY, rooms: frozenset[str] = ROOMS) -> str:
    """SHA-256 over the sources of ``module`` and of all that it imports, directly or not, inside our rooms.

    Imports inside functions count (they run); those under ``if TYPE_CHECKING`` do not. BackdropError when
    there is no such module.
    """
    digest = hashlib.sha256()
    for name in sources_of(module, root, rooms):
        digest.update(name.encode() + b"\0" + hashlib.sha256(_file(name, root).read_bytes()).digest())
    return digest.hexdigest()


def sources_of(module: str, root: Path = REPOSITORY, rooms: frozenset[str] = ROOMS) -> list[str]:
    """The names of ``module`` and of all modules of ours that importing and running it may execute, sorted."""
    if _find(module, root) is None:
        siblings = [path.stem for path in root.joinpath(*module.split(".")[:-1]).glob("*.py")]
        hint = nearest(module.rpartition(".")[2], siblings)
        raise BackdropError(f"there is no module {module} in {root}.{hint}", "correct the module's name")
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        pending += [parent for parent in _parents(name) if _find(parent, root) is not None]
        pending += _imports(name, root, rooms)
    return sorted(found)


def _imports(name: str, root: Path, rooms: frozenset[str]) -> list[str]:
    path = _file(name, root)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    wanted = (target for node in _run_nodes(_parse(path)) for target in _targets(node, package))
    return [target for target in wanted if target.split(".")[0] in rooms and _find(target, root) is not None]


def _targets(node: ast.AST, package: str) -> list[str]:
    """Everything that an import statement may name as a module: ``from a import b`` names a and perhaps a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return []


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those in the body of ``if TYPE_CHECKING``, which never runs."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            pending += node.orelse
        else:
            pending += ast.iter_child_nodes(node)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return name == "TYPE_CHECKING"


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise BackdropError(f"{path} cannot be parsed: {error}", "correct the syntax") from None


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _find(name: str, root: Path) -> Path | None:
    """The file of a module or package of ours; None when there is none."""
    place = root.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    return None


def _file(name: str, root: Path) -> Path:
    path = _find(name, root)
    if path is None:
        raise BackdropError(f"the source of {name} has gone from {root}", "restore it")
    return path
