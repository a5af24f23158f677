"""mosaicml-streaming without the eleven seconds that `import streaming` costs.

Its ``__init__`` imports the text, vision and multimodal sets, and with them transformers, torchvision and
scikit-learn. All that the line uses lives in ``streaming.base``. So the parent package is registered bare, with its
real path, before ``streaming.base`` is imported; what its ``__init__`` would have defined is resolved when somebody
asks for it. Where the real package was imported first, that one is used.

``from infra._compat.streaming import MDSWriter`` loads on first use (about 3 s, most of it torch).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from infra.errors import BackdropError

NAMES = ("LocalDataset", "MDSWriter", "Stream", "StreamingDataLoader", "StreamingDataset")
"""The classes the line uses, all defined in ``streaming.base``."""


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


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return getattr(load(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
