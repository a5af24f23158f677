"""mosaicml-streaming without the eleven seconds that `import streaming` costs.

Its ``__init__`` imports the text, vision and multimodal sets, and with them transformers, torchvision and
scikit-learn. All that the line uses lives in ``streaming.base``. So the parent package is registered bare, with its
real path, before ``streaming.base`` is imported; what its ``__init__`` would have defined is resolved when somebody
asks for it. Where the real package was imported first, that one is used.

``from infra._compat.streaming import MDSWriter`` loads on first use (about 3 s, most of it torch). Who only writes
shards calls ``writer()``, which needs none of torch (0.3 s).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any

from infra.errors import BackdropError

NAMES = ("LocalDataset", "MDSWriter", "StreamingDataset")
"""The classes of ``streaming.base`` that are used here, its readers by tests alone: shards are read by infra.shards."""

# It looks itself up by its name while it works; nothing in it depends on torch.
_LOOKED_UP = "streaming.base.storage.upload"


def load() -> ModuleType:
    """``streaming.base``, imported through a bare parent package unless the real one is already there."""
    if "streaming" not in sys.modules:
        spec = importlib.util.find_spec("streaming")
        if spec is None or spec.submodule_search_locations is None:
            raise BackdropError("the package mosaicml-streaming is not installed", "run `make install`")
        sys.modules["streaming"] = _bare(spec.submodule_search_locations, spec)
    return importlib.import_module("streaming.base")


def _bare(path: Any, spec: Any) -> ModuleType:
    """A stand-in for the package ``streaming``: same path and spec, attributes resolved when asked for."""
    package = ModuleType("streaming", "mosaicml-streaming, imported without its text, vision and multimodal sets.")
    package.__path__ = list(path)
    package.__spec__ = spec
    package.__file__ = spec.origin

    def resolve(name: str) -> Any:
        if name == "__version__":
            return importlib.import_module("streaming._version").__version__
        if not name.startswith("_"):
            base = importlib.import_module("streaming.base")
            if hasattr(base, name):
                return getattr(base, name)
            if importlib.util.find_spec(f"streaming.{name}") is not None:
                return importlib.import_module(f"streaming.{name}")
        raise AttributeError(f"module 'streaming' has no attribute {name!r}")

    package.__getattr__ = resolve  # type: ignore[method-assign]
    return package


@cache
def writer() -> Any:
    """The class ``MDSWriter``, imported without torch where that is not there already.

    Writing to a local folder uses nothing of torch, though modules on the way import it; they see a stand-in for as
    long as the import takes. What was imported with it is forgotten again, so that a later ``load`` gets the real ones.
    """
    if "torch" in sys.modules or "streaming" in sys.modules:
        return load().MDSWriter
    before = set(sys.modules)
    spec = importlib.util.find_spec("streaming")
    root = list(spec.submodule_search_locations or []) if spec is not None else []
    if not root:
        raise BackdropError("the package mosaicml-streaming is not installed", "run `make install`")
    for name in ("", ".base", ".base.format", ".base.format.mds", ".base.format.base", ".base.storage"):
        package = ModuleType(f"streaming{name}")
        package.__path__ = [root[0] + name.replace(".", "/")]
        sys.modules[package.__name__] = package
    for name in ("torch", "torch.distributed", "torch.utils", "torch.utils.data"):
        sys.modules[name] = _StandIn(name)
    try:
        return importlib.import_module("streaming.base.format.mds.writer").MDSWriter
    finally:
        for name in set(sys.modules) - before - {_LOOKED_UP}:
            if name.partition(".")[0] in ("streaming", "torch"):
                del sys.modules[name]


class _StandIn(ModuleType):
    """A module any name can be imported from."""

    __path__: Any = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return getattr(load(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
