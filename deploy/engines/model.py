"""An ONNX model as a backend takes it: the graph in memory, large weights in a file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.bundles import Bundle

EXTERNAL = ".data"
"""What the name of a file of weights has after that of its graph."""


@dataclass(frozen=True)
class OnnxModel:
    """`name` is the graph's file name, by which its weights in `folder` (None: it has none outside) are found."""

    name: str
    graph: bytes
    folder: Path | None = None
    precision: str = "float32"

    @classmethod
    def at(cls, path: Path, precision: str = "float32") -> OnnxModel:
        """The model whose graph lies at `path`."""
        beside = path.with_name(path.name + EXTERNAL)
        return cls(path.name, path.read_bytes(), path.parent if beside.is_file() else None, precision)

    @classmethod
    def of(cls, bundle: Bundle, name: str, folder: Path, precision: str = "float32") -> OnnxModel:
        """The model in a bundle, verified; large weights are copied into `folder`, which nobody else may write to."""
        beside, graph = name + EXTERNAL, bundle.read(name)
        if beside not in bundle.files:
            return cls(name, graph, None, precision)
        bundle.fetch(beside, folder)
        (folder / name).write_bytes(graph)  # TensorRT finds the weights beside the graph's own path
        return cls(name, graph, folder, precision)

    @property
    def files(self) -> dict[str, bytes | Path]:
        """The files of a bundle that holds it."""
        weights = {} if self.folder is None else {self.name + EXTERNAL: self.folder / (self.name + EXTERNAL)}
        return {self.name: self.graph, **weights}
