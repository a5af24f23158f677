"""The default backend: ONNX Runtime, on the CPU unless its build has CUDA."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.engines.model import OnnxModel
from infra.errors import BackdropError

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

BACKEND = "onnxruntime"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def version() -> str:
    """The installed release."""
    import onnxruntime

    return str(onnxruntime.__version__)


def available() -> list[str]:
    """The providers to run on: CUDA where this build of ONNX Runtime has it, then the CPU."""
    import onnxruntime

    return [name for name in (CUDA, CPU) if name in onnxruntime.get_available_providers()]


class OrtGraph:
    """One ONNX model as an ONNX Runtime session; `threads` 0 means every usable core, `providers` None the best here.

    Raises BackdropError for a model that ONNX Runtime cannot load.
    """

    def __init__(self, model: OnnxModel, threads: int = 0, providers: Sequence[str] | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Between two operators threads spin, which saves their waking (a tenth of the time, on two); between two calls
        # they must not, for others decode and composite the pictures then.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if model.folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(model.folder))
        chosen = list(providers or available())
        # Without TF32, which leaves ten bits of float32's mantissa: what stays float32 stays so for a reason.
        given: list[Any] = [(name, {"use_tf32": "0"}) if name == CUDA else name for name in chosen]
        try:
            if chosen[0] == CPU and model.precision == "bfloat16":
                log.warning("%s is bfloat16, which no CPU kernel computes: it is emulated, and slow", model.name)
                self._session: onnxruntime.InferenceSession | None = _emulated(model, options)
            else:
                self._session = onnxruntime.InferenceSession(model.graph, options, providers=given)
        except Exception as error:  # the binding's exceptions have no common base below Exception
            raise BackdropError(
                f"ONNX Runtime {version()} cannot load {model.name}: {(str(error).splitlines() or ['?'])[0]}",
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


def _emulated(model: OnnxModel, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    import onnx
    import onnxruntime
    from onnx.external_data_helper import load_external_data_for_model

    from deploy.graphs import write_onnx
    from deploy.precision import emulated

    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    whole = onnx.load_model_from_string(model.graph)
    if model.folder is not None:
        load_external_data_for_model(whole, str(model.folder))
    with tempfile.TemporaryDirectory(prefix="backdrop-emulated-") as folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        path = Path(folder) / model.name
        write_onnx(emulated(whole), path)  # twice the size in float32: perhaps too large for one message
        return onnxruntime.InferenceSession(str(path), options, providers=[CPU])
