"""The default backend: ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from infra.errors import BackdropError

if TYPE_CHECKING:
    import onnxruntime

BACKEND = "onnxruntime"


def version() -> str:
    """The installed release."""
    import onnxruntime

    return str(onnxruntime.__version__)


class OrtGraph:
    """One ONNX model as an ONNX Runtime session. `name` is for messages only; `threads` 0 means every usable core.

    Raises BackdropError for a model that ONNX Runtime cannot load.
    """

    def __init__(self, name: str, model: bytes, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # An idle session must not burn the cores that decode and composite the pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the binding's exceptions have no common base below Exception
            raise BackdropError(
                f"ONNX Runtime {version()} cannot load {name}: {str(error).splitlines()[0]}",
                "Materialise tensorrt_engine again; its ONNX files were made for another runtime or are damaged.",
            ) from error
        self._inputs = [entry.name for entry in self._session.get_inputs()]

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        if self._session is None:
            raise ValueError("this engine was closed")
        # Constant folding drops inputs that a graph does not use, hence the selection.
        output = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        return np.asarray(output)

    def close(self) -> None:
        self._session = None
