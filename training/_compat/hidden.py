"""Hide optional packages while a library is imported that would import whatever it finds."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from typing import Any

# Distribution names that differ from the package they install.
DISTRIBUTIONS = {"scikit_learn": "sklearn", "pillow": "PIL"}


class _Blocker(importlib.abc.MetaPathFinder):
    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root in self.names and root not in sys.modules:
            raise ModuleNotFoundError(f"{fullname} is hidden during this import", name=fullname)
        return None


def hidden_from(library: str, *names: str) -> AbstractContextManager[None]:
    """`hidden`, unless `library` is imported already: it has looked around and would miss what it saw."""
    return nullcontext() if library in sys.modules else hidden(*names)


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Make top-level packages look absent for imports, `find_spec` and installed distributions.

    The library keeps what it concluded: features that need a hidden package stay off in this process. Submodules of a
    package that is already imported can still be imported, or it would break.
    """
    absent = frozenset(names)
    blocker, active = _Blocker(absent), True
    find_spec, distribution, version = (
        importlib.util.find_spec,
        importlib.metadata.distribution,
        importlib.metadata.version,
    )

    def find_visible(name: str, package: str | None = None) -> ModuleSpec | None:
        # Modules imported meanwhile keep a reference to this function, so it must be honest later.
        if active and name.partition(".")[0] in absent:
            return None
        return find_spec(name, package)

    def visible_distribution(distribution_name: str) -> importlib.metadata.Distribution:
        root = distribution_name.lower().replace("-", "_")
        if active and DISTRIBUTIONS.get(root, root) in absent:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return distribution(distribution_name)

    sys.meta_path.insert(0, blocker)
    importlib.util.find_spec = find_visible
    importlib.metadata.distribution = visible_distribution
    importlib.metadata.version = lambda distribution_name: visible_distribution(distribution_name).version
    try:
        yield
    finally:
        active = False
        sys.meta_path.remove(blocker)
        importlib.util.find_spec = find_spec
        importlib.metadata.distribution = distribution
        importlib.metadata.version = version
